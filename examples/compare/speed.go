package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// publishers is how many goroutines publish concurrently.
const publishers = 16

// figures are the measurements of a library: one value per round, in seconds.
type figures struct {
	publishOne  []float64 // per message, with one publisher
	publishMany []float64 // per message, with several publishers
	consume     []float64 // per message; empty if messages are not stored
	latency     []float64 // from the call of publish to the handler
	lost        float64   // the largest share of messages that a running subscriber did not receive
}

// speed measures all libraries in turns, because the speed of a shared machine changes
// from one minute to the next. It returns a table. The numbers in brackets say how
// many times faster a library is than nats.go, or for the latency, how many times
// slower.
func (b *testbed) speed(rounds, n int) ([]string, error) {
	all := peers()
	measured := make([]figures, len(all))
	n -= n % publishers
	for round := range rounds {
		for i := range all {
			i = (i + round) % len(all)
			if err := b.measure(all[i], fmt.Sprintf("speed%d", i), n, &measured[i]); err != nil {
				return nil, fmt.Errorf("%s: %w", all[i].name, err)
			}
		}
	}
	table := []string{
		fmt.Sprintf("| Library | Stored when Publish returns | Publish, one at a time | Publish, %d at a time | Consume a backlog | From Publish to the handler |", publishers),
		"| --- | --- | --- | --- | --- | --- |",
	}
	raw := measured[0]
	for i, p := range all {
		stored, m := "yes", measured[i]
		if !p.stored {
			stored = "no"
			if m.lost > 0 {
				stored += fmt.Sprintf("; %.0f %% of them never arrived", 100*m.lost)
			}
		}
		table = append(table, fmt.Sprintf("| %s | %s | %s | %s | %s | %s |", p.name, stored,
			perSecond(m.publishOne, raw.publishOne), perSecond(m.publishMany, raw.publishMany), perSecond(m.consume, raw.consume),
			fmt.Sprintf("%.0f µs (%.2f)", median(m.latency)*1e6, median(m.latency)/median(raw.latency))))
	}
	return table, nil
}

// perSecond formats times per message as a rate, and relative to those of nats.go.
func perSecond(v, raw []float64) string {
	if len(v) == 0 {
		return "nothing is kept"
	}
	return fmt.Sprintf("%.0f/s (%.2f)", 1/median(v), median(raw)/median(v))
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// measure does one round with one library and adds the results to f.
func (b *testbed) measure(p peer, topic string, n int, f *figures) error {
	if err := b.prepare(p, topic); err != nil {
		return err
	}
	s, err := p.connect(b.url)
	if err != nil {
		return err
	}
	defer s.close()
	arrived := make(chan time.Time, 2*n)
	subscribe := func() error {
		return s.subscribe(topic, func() error { arrived <- time.Now(); return nil })
	}
	if p.stored {
		return measureStored(s, topic, n, f, arrived, subscribe)
	}
	// Nothing is kept, so the subscriber must be there from the start.
	if err := subscribe(); err != nil {
		return err
	}
	published, err := measurePublish(s, topic, n, f)
	if err != nil {
		return err
	}
	f.lost = max(f.lost, 1-float64(drain(arrived))/float64(published))
	return measureLatency(s, topic, n, f, arrived)
}

// measureStored measures a library that stores messages. It subscribes only after the
// publishing, so that there is a backlog to consume.
func measureStored(s *session, topic string, n int, f *figures, arrived <-chan time.Time, subscribe func() error) error {
	published, err := measurePublish(s, topic, n, f)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := subscribe(); err != nil {
		return err
	}
	for range published {
		if _, err := next(arrived); err != nil {
			return fmt.Errorf("consume: %w", err)
		}
	}
	f.consume = append(f.consume, time.Since(began).Seconds()/float64(published))
	return measureLatency(s, topic, n, f, arrived)
}

// measurePublish measures publishing, with one publisher and with several, and returns
// how many messages it has published.
func measurePublish(s *session, topic string, n int, f *figures) (published int, err error) {
	few := n / 5
	took, err := publish(s, topic, few, 1)
	if err != nil {
		return 0, err
	}
	f.publishOne = append(f.publishOne, took.Seconds()/float64(few))
	if took, err = publish(s, topic, n, publishers); err != nil {
		return 0, err
	}
	f.publishMany = append(f.publishMany, took.Seconds()/float64(n))
	return few + n, nil
}

// measureLatency measures how long single messages take from publish to the handler.
func measureLatency(s *session, topic string, n int, f *figures, arrived <-chan time.Time) error {
	var times []float64
	for range n / 20 {
		began := time.Now()
		if err := s.publish(topic); err != nil {
			return err
		}
		at, err := next(arrived)
		if err != nil {
			return fmt.Errorf("latency: %w", err)
		}
		times = append(times, at.Sub(began).Seconds())
	}
	f.latency = append(f.latency, median(times))
	return nil
}

// publish publishes n messages from this many goroutines and returns how long that
// took.
func publish(s *session, topic string, n, concurrency int) (time.Duration, error) {
	errs := make([]error, concurrency)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range concurrency {
		wg.Go(func() {
			for range n / concurrency {
				if err := s.publish(topic); err != nil {
					errs[i] = fmt.Errorf("publish: %w", err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began), errors.Join(errs...)
}

// next waits for the next message and returns the time of its arrival.
func next(arrived <-chan time.Time) (time.Time, error) {
	select {
	case at := <-arrived:
		return at, nil
	case <-time.After(patience):
		return time.Time{}, errors.New("a message has not arrived")
	}
}

// drain counts the messages that arrive, until no more do.
func drain(arrived <-chan time.Time) (n int) {
	for {
		select {
		case <-arrived:
			n++
		case <-time.After(grace / 3):
			return n
		}
	}
}
