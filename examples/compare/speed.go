package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// publishers is how many publish side by side.
const publishers = 16

// figures are what a peer was measured at, one of each per round, in seconds.
type figures struct {
	publish1, publish16 []float64 // per message
	consume             []float64 // per message; none without a store
	latency             []float64 // from the call of publish to the handler
	lost                float64   // the share that a running subscriber did not get
}

// speed measures all libraries in turns, because a shared machine's speed
// changes from one minute to the next, and returns a table: numbers, and in
// brackets how many times faster than nats.go, or for the latency, slower.
func (w *world) speed(rounds, n int) ([]string, error) {
	all := peers()
	measured := make([]figures, len(all))
	n -= n % publishers
	for round := range rounds {
		for i := range all {
			i = (i + round) % len(all)
			if err := w.measure(all[i], fmt.Sprintf("speed%d", i), n, &measured[i]); err != nil {
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
			perSecond(m.publish1, raw.publish1), perSecond(m.publish16, raw.publish16), perSecond(m.consume, raw.consume),
			fmt.Sprintf("%.0f µs (%.2f)", median(m.latency)*1e6, median(m.latency)/median(raw.latency))))
	}
	return table, nil
}

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

// measure is one round of one library.
func (w *world) measure(p peer, topic string, n int, f *figures) error {
	if err := w.prepare(p, topic); err != nil {
		return err
	}
	s, err := p.with(w.url)
	if err != nil {
		return err
	}
	defer s.close()
	arrived := make(chan time.Time, 2*n)
	subscribe := func(s *session) error {
		return s.subscribe(topic, func() error { arrived <- time.Now(); return nil })
	}
	if !p.stored {
		if err := subscribe(s); err != nil {
			return err
		}
	}

	few := n / 5
	took, err := publish(s, topic, few, 1)
	if err != nil {
		return err
	}
	f.publish1 = append(f.publish1, took.Seconds()/float64(few))
	if took, err = publish(s, topic, n, publishers); err != nil {
		return err
	}
	f.publish16 = append(f.publish16, took.Seconds()/float64(n))

	if p.stored {
		began := time.Now()
		if err := subscribe(s); err != nil {
			return err
		}
		for range few + n {
			if _, err := next(arrived); err != nil {
				return fmt.Errorf("consume: %w", err)
			}
		}
		f.consume = append(f.consume, time.Since(began).Seconds()/float64(few+n))
	}
	if n := few + n; !p.stored {
		f.lost = max(f.lost, 1-float64(drain(arrived))/float64(n))
	}

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

// publish publishes n messages, so many at a time.
func publish(s *session, topic string, n, atATime int) (time.Duration, error) {
	errs := make([]error, atATime)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range atATime {
		wg.Go(func() {
			for range n / atATime {
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

// next returns when the next message arrived.
func next(arrived <-chan time.Time) (time.Time, error) {
	select {
	case at := <-arrived:
		return at, nil
	case <-time.After(patience):
		return time.Time{}, errors.New("a message has not arrived")
	}
}

// drain counts what has arrived, and returns when nothing more does.
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
