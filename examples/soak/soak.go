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
	// ackWait is short, so that messages whose acknowledgement was lost in a restart are
	// delivered again soon.
	ackWait = 5 * time.Second
	// patience limits each publish, and the wait for the last messages.
	patience = 90 * time.Second
)

// errSometimes is the error of handlers that fail on purpose.
var errSometimes = errors.New("one in a hundred fails")

// soak is one run of the program.
type soak struct {
	servers, rate int           // rate is in messages per second and publisher
	every         time.Duration // between two faults; 0: no faults
	verbose       bool
	ledger        *ledger
	cluster       *cluster
	replicas      [2]broker.Broker
}

// usage is how much the process uses.
type usage struct {
	goroutines int
	heap       uint64 // bytes
}

func measure() usage {
	runtime.GC()
	runtime.GC() // a sync.Pool keeps its content for one more cycle
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{goroutines: runtime.NumGoroutine(), heap: m.HeapAlloc}
}

// run does the work, prints the table, and fails if a message was lost.
func (s *soak) run(ctx context.Context, d time.Duration) error {
	before := measure()
	begin := time.Now()
	if err := s.work(ctx, d); err != nil {
		return err
	}
	after := measure()
	// Goroutines of the servers that were just stopped take a moment to end.
	for deadline := time.Now().Add(10 * time.Second); after.goroutines > before.goroutines+2 && time.Now().Before(deadline); after = measure() {
		time.Sleep(100 * time.Millisecond)
	}
	lost := s.ledger.lost()
	s.report(os.Stdout, time.Since(begin), before, after, lost)
	switch {
	case lost > 0:
		return fmt.Errorf("%d messages were lost", lost)
	case s.ledger.dropped > 0:
		return fmt.Errorf("the client dropped messages %d times", s.ledger.dropped)
	}
	return nil
}

// work publishes, consumes and injects faults for this long, and then waits until the
// last messages have arrived.
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
	err = s.injectFaults(ctx)
	working.Wait()
	for deadline := time.Now().Add(patience); s.ledger.lost() > 0 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	return errors.Join(err, publisher.Disconnect(), s.replicas[0].Disconnect(), s.replicas[1].Disconnect())
}

// newBroker returns a broker for a publisher or a replica.
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
				l.update(func() { l.dropped++ })
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

// handle fails for about one message in a hundred.
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

// publish publishes at the rate until ctx is cancelled, and then waits until the
// outcome of every publish is known.
func (s *soak) publish(ctx context.Context, b broker.Broker, topic string, id int, async bool) {
	pace := time.NewTicker(time.Second / time.Duration(s.rate))
	defer pace.Stop()
	var inFlight sync.WaitGroup
	defer inFlight.Wait()
	for n := 1; ; n++ {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
		body := fmt.Sprintf("%s/%d/%d", topic, id, n)
		inFlight.Add(1)
		limit, cancel := context.WithTimeout(context.Background(), patience)
		done := func(err error) {
			cancel()
			s.ledger.publishEnded(body, err)
			inFlight.Done()
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

// The faults, as the table names them.
const (
	serverRestarted = "servers restarted"
	consumerDeleted = "consumers deleted"
	replicaReplaced = "replicas replaced"
)

// injectFaults injects a fault at regular intervals until ctx is cancelled.
func (s *soak) injectFaults(ctx context.Context) error {
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
		var fault string
		var err error
		switch rand.IntN(4) {
		case 0, 1:
			fault = serverRestarted
			next = (next + 1) % s.servers
			err = s.cluster.restart(next, time.Second)
		case 2:
			fault = consumerDeleted
			err = s.deleteConsumer(ctx)
		default:
			fault = replicaReplaced
			err = s.replaceReplica(rand.IntN(len(s.replicas)))
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", fault, err)
		}
		s.ledger.update(func() { s.ledger.faults[fault]++ })
		if s.verbose {
			fmt.Fprintln(os.Stderr, "soak:", fault)
		}
	}
}

// replaceReplica stops a replica and starts another one in its place.
func (s *soak) replaceReplica(i int) error {
	if err := s.replicas[i].Disconnect(); err != nil {
		return err
	}
	return s.startReplica(i)
}

// deleteConsumer deletes the consumer of a topic, as an operator could.
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

// report prints the table.
func (s *soak) report(w io.Writer, took time.Duration, before, after usage, lost int) {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer func() { _ = t.Flush() }()
	row := func(name string, value any) { _, _ = fmt.Fprintf(t, "%s\t%v\n", name, value) }
	row("duration", took.Round(time.Second))
	row("servers", s.servers)
	for _, fault := range []string{serverRestarted, consumerDeleted, replicaReplaced} {
		row(fault, l.faults[fault])
	}
	row("fetch errors", l.fetchErrors)
	row("published", l.published)
	row("acked", len(l.stored))
	row("outcome unknown", l.unknown)
	row("refused", l.refused)
	row("handled", len(l.handled))
	row("duplicates", duplicates(l.handled))
	row("dead-lettered", len(l.dead))
	row("dead-letter duplicates", duplicates(l.dead))
	row("dropped by the client", l.dropped)
	row("lost", lost)
	row("goroutines", fmt.Sprintf("%d -> %d", before.goroutines, after.goroutines))
	row("heap, including the counts", fmt.Sprintf("%.1f MB -> %.1f MB", float64(before.heap)/1e6, float64(after.heap)/1e6))
}
