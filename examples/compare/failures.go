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

// grace is the wait for a message after which it will not come. The longest
// that one takes here is this broker's first pause before a retry, 1.1 s at most.
const grace = 5 * time.Second

// failures provokes the failures with each library, side by side, and returns a
// table of what became of the message.
func (w *world) failures() ([]string, error) {
	all := peers()
	rows := make([]string, len(all))
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, p := range all {
		wg.Go(func() {
			row := "| " + p.name
			for _, f := range []func(peer, string) (string, error){w.unprepared, w.restart, w.failing, w.dying} {
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

// unprepared publishes to a topic that nobody knows yet.
func (w *world) unprepared(p peer, topic string) (string, error) {
	topic += "unprepared"
	s, err := p.with(w.url)
	if err != nil {
		return "", err
	}
	defer s.close()
	if s.publish(topic) != nil {
		return "an error", nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	name, err := w.js.StreamNameBySubject(ctx, topic)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return "lost", nil
	}
	if err != nil {
		return "", err
	}
	st, err := w.js.Stream(ctx, name)
	if err != nil || st.CachedInfo().State.Msgs != 1 {
		return "", fmt.Errorf("stream %s does not have the message: %w", name, err)
	}
	return "stored", nil
}

// restart publishes while the subscriber is away.
func (w *world) restart(p peer, topic string) (string, error) {
	topic += "restart"
	if err := w.prepare(p, topic); err != nil {
		return "", err
	}
	publisher, err := p.with(w.url)
	if err != nil {
		return "", err
	}
	defer publisher.close()
	arrived := make(chan struct{}, 10)
	subscriber := func() (*session, error) {
		s, err := p.with(w.url)
		if err != nil {
			return nil, err
		}
		return s, s.subscribe(topic, func() error { arrived <- struct{}{}; return nil })
	}
	before, err := subscriber()
	if err != nil {
		return "", err
	}
	before.close()
	if err := w.idle(p, topic); err != nil {
		return "", err
	}
	_ = publisher.publish(topic) // what it says does not matter here
	after, err := subscriber()
	if err != nil {
		return "", err
	}
	defer after.close()
	if came(arrived) {
		return "arrives", nil
	}
	return "does not arrive", nil
}

// failing has the handler refuse the first delivery.
func (w *world) failing(p peer, topic string) (string, error) {
	topic += "failing"
	if err := w.prepare(p, topic); err != nil {
		return "", err
	}
	s, err := p.with(w.url)
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
	case !came(arrived):
		return "does not come again", nil
	case time.Since(began) < time.Second*9/10:
		return "comes again at once", nil
	default:
		return "comes again after 1, 2, 4 ... 30 s", nil
	}
}

// dying looks at the server while a handler runs: what is acknowledged by then
// is lost if the process ends.
func (w *world) dying(p peer, topic string) (string, error) {
	topic += "dying"
	if err := w.prepare(p, topic); err != nil {
		return "", err
	}
	s, err := p.with(w.url)
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
		unsettled, err := w.unsettled(topic)
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
func (w *world) consumers(topic string) ([]*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := w.js.Stream(ctx, topic)
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

// unsettled counts what the consumers of a stream have not acknowledged.
func (w *world) unsettled(topic string) (int, error) {
	n := 0
	all, err := w.consumers(topic)
	for _, c := range all {
		n += int(c.NumPending) + c.NumAckPending
	}
	return n, err
}

// idle waits until the server knows that a subscriber has gone. Until then it
// would send messages after it, which come again only after AckWait.
func (w *world) idle(p peer, topic string) error {
	if !p.stored {
		return nil
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		all, err := w.consumers(topic)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(c *jetstream.ConsumerInfo) bool { return c.PushBound || c.NumWaiting > 0 }) {
			return nil
		}
	}
	return errors.New("the subscriber does not go")
}

// came reports whether a message arrives.
func came(arrived <-chan struct{}) bool {
	select {
	case <-arrived:
		return true
	case <-time.After(grace):
		return false
	}
}
