package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
)

const (
	topicSync   = "soak.sync"
	topicAsync  = "soak.async"
	deadLetters = "letters.soak"
	queue       = "soak"
	// ackWait is short, so that what a restart has taken along comes back soon.
	ackWait = 5 * time.Second
	// patience is how long a publish may take, and how long the last messages.
	patience = 90 * time.Second
)

// errSometimes is what a handler fails with now and then.
var errSometimes = errors.New("one in a hundred fails")

type soak struct {
	servers, rate int
	every         time.Duration
	verbose       bool
	ledger        *ledger
	cluster       *cluster
	replicas      [2]broker.Broker
}

// usage is what the process holds.
type usage struct {
	goroutines int
	heap       uint64
}

func measure() usage {
	runtime.GC()
	runtime.GC() // of what pools have kept
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{goroutines: runtime.NumGoroutine(), heap: m.HeapAlloc}
}

func (s *soak) run(ctx context.Context, d time.Duration) error {
	before := measure()
	begin := time.Now()
	if err := s.work(ctx, d); err != nil {
		return err
	}
	after := measure()
	// Timers of the servers that have just stopped take a moment to go.
	for deadline := time.Now().Add(10 * time.Second); after.goroutines > before.goroutines+2 && time.Now().Before(deadline); after = measure() {
		time.Sleep(100 * time.Millisecond)
	}
	lost := s.ledger.lost()
	s.report(os.Stdout, time.Since(begin), before, after, lost)
	switch {
	case lost > 0:
		return fmt.Errorf("%d messages were lost", lost)
	case s.ledger.slow > 0:
		return fmt.Errorf("the client dropped messages %d times", s.ledger.slow)
	}
	return nil
}

func (s *soak) work(ctx context.Context, d time.Duration) error {
	var err error
	if s.cluster, err = startCluster(s.servers); err != nil {
		return err
	}
	defer s.cluster.stop()
	for i := range s.replicas {
		if err := s.startReplica(i); err != nil {
			return err
		}
	}
	publisher := s.newBroker()
	if err := publisher.Connect(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var working sync.WaitGroup
	for i := range 2 {
		working.Go(func() { s.publish(ctx, publisher, topicSync, i, false) })
	}
	working.Go(func() { s.publish(ctx, publisher, topicAsync, 0, true) })
	err = s.disturb(ctx)
	working.Wait()
	for deadline := time.Now().Add(patience); s.ledger.lost() > 0 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	return errors.Join(err, publisher.Disconnect(), s.replicas[0].Disconnect(), s.replicas[1].Disconnect())
}

func (s *soak) newBroker() broker.Broker {
	l := s.ledger
	out, level := io.Discard, logger.ErrorLevel
	if s.verbose {
		out, level = os.Stderr, logger.InfoLevel
	}
	return jsbroker.NewBroker(
		broker.Addrs(s.cluster.urls()...),
		broker.Logger(logger.NewLogger(logger.WithOutput(out), logger.WithLevel(level))),
		jsbroker.WithStreamConfig(jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy, Replicas: s.servers}),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: ackWait, MaxDeliver: 1000}),
		jsbroker.WithDeadLetter(deadLetters),
		jsbroker.WithNATSOptions(nats.ReconnectWait(100*time.Millisecond), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrSlowConsumer) {
				l.update(func() { l.slow++ })
			}
		})),
		jsbroker.WithHooks(jsbroker.Hooks{FetchError: func(context.Context, jsbroker.FetchError) { l.update(func() { l.fetchErrors++ }) }}),
	)
}

// startReplica starts one of the two replicas of the consuming service.
func (s *soak) startReplica(i int) error {
	b := s.newBroker()
	if err := b.Connect(); err != nil {
		return err
	}
	s.replicas[i] = b
	for _, topic := range []string{topicSync, topicAsync} {
		if _, err := b.Subscribe(topic, s.handle, broker.Queue(queue), jsbroker.Concurrency(1+i*3)); err != nil {
			return err
		}
	}
	_, err := b.Subscribe(deadLetters, func(e broker.Event) error {
		s.ledger.update(func() { s.ledger.dead[string(e.Message().Body)]++ })
		return nil
	}, broker.Queue(queue))
	return err
}

func (s *soak) handle(e broker.Event) error {
	switch n := rand.IntN(1000); {
	case n < 10:
		return jsbroker.RetryAfter(100*time.Millisecond, errSometimes)
	case n < 12:
		return jsbroker.Discard(errSometimes)
	}
	s.ledger.update(func() { s.ledger.handled[string(e.Message().Body)]++ })
	return nil
}

func (s *soak) publish(ctx context.Context, b broker.Broker, topic string, id int, async bool) {
	pace := time.NewTicker(time.Second / time.Duration(s.rate))
	defer pace.Stop()
	var answers sync.WaitGroup
	defer answers.Wait()
	for n := 1; ; n++ {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
		body := fmt.Sprintf("%s/%d/%d", topic, id, n)
		answers.Add(1)
		limit, cancel := context.WithTimeout(context.Background(), patience)
		done := func(err error) {
			cancel()
			s.ledger.answered(body, err)
			answers.Done()
		}
		opts := []broker.PublishOption{broker.PublishContext(limit)}
		if async {
			opts = append(opts, jsbroker.Async(done))
		}
		if err := b.Publish(topic, &broker.Message{Body: []byte(body)}, opts...); err != nil || !async {
			done(err)
		}
	}
}

// disturb makes trouble until the context ends.
func (s *soak) disturb(ctx context.Context) error {
	if s.every == 0 {
		<-ctx.Done()
		return nil
	}
	next := rand.IntN(s.servers)
	for {
		select {
		case <-time.After(s.every):
		case <-ctx.Done():
			return nil
		}
		var what string
		var err error
		switch rand.IntN(4) {
		case 0, 1:
			what, next = "servers restarted", (next+1)%s.servers
			err = s.cluster.restart(next, time.Second)
		case 2:
			what = "consumers deleted"
			err = s.deleteConsumer(ctx)
		default:
			what = "replicas replaced"
			i := rand.IntN(len(s.replicas))
			if err = s.replicas[i].Disconnect(); err == nil {
				err = s.startReplica(i)
			}
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		s.ledger.update(func() { s.ledger.disturbed[what]++ })
		if s.verbose {
			fmt.Fprintln(os.Stderr, "soak:", what)
		}
	}
}

// deleteConsumer deletes the consumer of a topic, as an operator might.
func (s *soak) deleteConsumer(ctx context.Context) error {
	nc, err := nats.Connect(s.cluster.urls()[0])
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = js.DeleteConsumer(ctx, "SOAK", queue)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

func (s *soak) report(w io.Writer, took time.Duration, before, after usage, lost int) {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer func() { _ = t.Flush() }()
	row := func(name string, value any) { _, _ = fmt.Fprintf(t, "%s\t%v\n", name, value) }
	row("duration", took.Round(time.Second))
	row("servers", s.servers)
	for _, what := range []string{"servers restarted", "consumers deleted", "replicas replaced"} {
		row(what, l.disturbed[what])
	}
	row("fetch errors", l.fetchErrors)
	row("published", l.published)
	row("acked", len(l.stored))
	row("outcome unknown", l.unknown)
	row("refused", l.refused)
	row("handled", len(l.handled))
	row("duplicates", again(l.handled))
	row("dead-lettered", len(l.dead))
	row("dead-letter duplicates", again(l.dead))
	row("dropped by the client", l.slow)
	row("lost", lost)
	row("goroutines", fmt.Sprintf("%d -> %d", before.goroutines, after.goroutines))
	row("heap, with this count", fmt.Sprintf("%.1f MB -> %.1f MB", float64(before.heap)/1e6, float64(after.heap)/1e6))
}
