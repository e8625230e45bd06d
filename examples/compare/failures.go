package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// grace is how long to wait for a message before concluding that it will not arrive.
// The longest delay here is this broker's first pause before a redelivery: at most
// 1.1 s.
const grace = 5 * time.Second

// failures provokes each failure with each library, with all libraries in parallel. It
// returns a table of what happened to the message.
func (b *testbed) failures() ([]string, error) {
	all := peers()
	rows := make([]string, len(all))
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, p := range all {
		wg.Go(func() {
			row := "| " + p.name
			for _, f := range []func(peer, string) (string, error){b.firstPublish, b.subscriberRestarts, b.handlerFails, b.processDies} {
				result, err := f(p, fmt.Sprintf("failure%d", i))
				if err != nil {
					errs[i] = fmt.Errorf("%s: %w", p.name, err)
					return
				}
				row += " | " + result
			}
			rows[i] = row + " |"
		})
	}
	wg.Wait()
	return append([]string{
		"| Library | The first publish, before anybody has subscribed | Published while the subscriber restarts | The handler returns an error | The process dies in the handler |",
		"| --- | --- | --- | --- | --- |",
	}, rows...), errors.Join(errs...)
}

// firstPublish publishes to a topic that nobody has used before.
func (b *testbed) firstPublish(p peer, topic string) (string, error) {
	topic += "first"
	s, err := p.connect(b.url)
	if err != nil {
		return "", err
	}
	defer s.close()
	if s.publish(topic) != nil {
		return "an error", nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	name, err := b.js.StreamNameBySubject(ctx, topic)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return "lost", nil
	}
	if err != nil {
		return "", err
	}
	st, err := b.js.Stream(ctx, name)
	if err != nil || st.CachedInfo().State.Msgs != 1 {
		return "", fmt.Errorf("stream %s does not have the message: %w", name, err)
	}
	return "stored", nil
}

// subscriberRestarts publishes while the subscriber is away.
func (b *testbed) subscriberRestarts(p peer, topic string) (string, error) {
	topic += "restart"
	if err := b.prepare(p, topic); err != nil {
		return "", err
	}
	publisher, err := p.connect(b.url)
	if err != nil {
		return "", err
	}
	defer publisher.close()
	arrived := make(chan struct{}, 10)
	subscribe := func() (*session, error) {
		s, err := p.connect(b.url)
		if err != nil {
			return nil, err
		}
		return s, s.subscribe(topic, func() error { arrived <- struct{}{}; return nil })
	}
	before, err := subscribe()
	if err != nil {
		return "", err
	}
	before.close()
	if err := b.awaitNoSubscriber(p, topic); err != nil {
		return "", err
	}
	_ = publisher.publish(topic) // only the subscriber's view matters here
	after, err := subscribe()
	if err != nil {
		return "", err
	}
	defer after.close()
	if arrives(arrived) {
		return "arrives", nil
	}
	return "does not arrive", nil
}

// handlerFails lets the handler return an error for the first delivery.
func (b *testbed) handlerFails(p peer, topic string) (string, error) {
	topic += "failing"
	if err := b.prepare(p, topic); err != nil {
		return "", err
	}
	s, err := p.connect(b.url)
	if err != nil {
		return "", err
	}
	defer s.close()
	arrived := make(chan struct{}, 10)
	first := make(chan time.Time, 1)
	first <- time.Time{}
	err = s.subscribe(topic, func() error {
		select {
		case <-first:
			return errors.New("refused")
		default:
			arrived <- struct{}{}
			return nil
		}
	})
	if err != nil {
		return "", err
	}
	if err := s.publish(topic); err != nil {
		return "", err
	}
	began := time.Now()
	switch {
	case !arrives(arrived):
		return "does not come again", nil
	case time.Since(began) < time.Second*9/10:
		return "comes again at once", nil
	default:
		return "comes again after 1, 2, 4 ... 30 s", nil
	}
}

// processDies shows what would happen if the process died while a handler runs. It
// asks the server: a message that is already acknowledged would be lost.
func (b *testbed) processDies(p peer, topic string) (string, error) {
	topic += "dying"
	if err := b.prepare(p, topic); err != nil {
		return "", err
	}
	s, err := p.connect(b.url)
	if err != nil {
		return "", err
	}
	defer s.close()
	began, release := make(chan struct{}, 10), make(chan struct{})
	defer close(release)
	err = s.subscribe(topic, func() error { began <- struct{}{}; <-release; return nil })
	if err != nil {
		return "", err
	}
	if err := s.publish(topic); err != nil {
		return "", err
	}
	select {
	case <-began:
	case <-time.After(patience):
		return "", errors.New("the message has not arrived")
	}
	if !p.stored {
		return "lost", nil
	}
	for end := time.Now().Add(grace); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		unsettled, err := b.unsettled(topic)
		if err != nil {
			return "", err
		}
		if unsettled == 0 {
			return "lost: it is acknowledged before", nil
		}
	}
	return "comes again after AckWait", nil
}

// consumers returns the consumers of a topic's stream.
func (b *testbed) consumers(topic string) ([]*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := b.js.Stream(ctx, topic)
	if err != nil {
		return nil, err
	}
	var all []*jetstream.ConsumerInfo
	list := st.ListConsumers(ctx)
	for c := range list.Info() {
		all = append(all, c)
	}
	return all, list.Err()
}

// unsettled returns how many messages the consumers of a topic have not acknowledged.
func (b *testbed) unsettled(topic string) (int, error) {
	n := 0
	all, err := b.consumers(topic)
	for _, c := range all {
		n += int(c.NumPending) + c.NumAckPending
	}
	return n, err
}

// awaitNoSubscriber waits until the server knows that the subscriber is gone. Until
// then, the server would still deliver messages to it, and deliver them again only
// after AckWait.
func (b *testbed) awaitNoSubscriber(p peer, topic string) error {
	if !p.stored {
		return nil
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		all, err := b.consumers(topic)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(c *jetstream.ConsumerInfo) bool { return c.PushBound || c.NumWaiting > 0 }) {
			return nil
		}
	}
	return errors.New("the server still has the subscriber")
}

// arrives reports whether a message arrives within the grace period.
func arrives(arrived <-chan struct{}) bool {
	select {
	case <-arrived:
		return true
	case <-time.After(grace):
		return false
	}
}
