package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

func TestAsyncReportsEachMessageOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	published, onPublished := hookChan[jsbroker.Published]()
	b := newBroker(t, s, jsbroker.WithAsyncWindow(16), jsbroker.WithHooks(jsbroker.Hooks{Published: onPublished}))
	const n = 500
	var reported [n]atomic.Int64
	var all sync.WaitGroup
	all.Add(n)
	for i := range n {
		ctx, cancel := context.WithCancel(context.Background())
		err := b.Publish("orders", message(fmt.Sprint(i)), broker.PublishContext(ctx), jsbroker.MessageID(fmt.Sprint(i)), jsbroker.Async(func(err error) {
			if err != nil {
				t.Error(err)
			}
			reported[i].Add(1)
			all.Done()
		}))
		cancel() // means nothing once Publish has returned
		if err != nil {
			t.Fatal(err)
		}
	}
	all.Wait()
	for i := range reported {
		if reported[i].Load() != 1 {
			t.Fatalf("message %d was reported %d times", i, reported[i].Load())
		}
	}
	if stored := streamInfo(t, js, "ORDERS").State.Msgs; stored != n {
		t.Fatalf("%d stored, want %d", stored, n)
	}
	for range n {
		if e := receive(t, published); e.Err != nil || e.Stream != "ORDERS" || e.Sequence == 0 {
			t.Fatalf("event %+v", e)
		}
	}
}

func TestAsyncKeepsTheOrderOfTheFirstMessages(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := newBroker(t, s)
	const n = 100
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint(i))
		if err := b.Publish("orders", message(want[i]), jsbroker.Async(func(err error) {
			if err != nil {
				t.Error(err)
			}
		})); err != nil {
			t.Fatal(err)
		}
	}
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	for i := range n {
		if body := receive(t, got); body != want[i] {
			t.Fatalf("got %s in place of %s", body, want[i])
		}
	}
}

func TestAsyncFailuresReachTheirCaller(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := newBroker(t, s)
	results := make(chan error, 1)
	async := jsbroker.Async(func(err error) { results <- err })
	if err := b.Publish("orders.*", message("x"), async); !errors.Is(err, jsbroker.ErrInvalidTopic) {
		t.Fatalf("Publish: %v", err)
	}
	full := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{MaxMsgs: 1, Discard: jetstream.DiscardNew}))
	publish(t, full, "small", "1")
	if err := full.Publish("small", message("2"), async, jsbroker.MessageID("mine")); err != nil {
		t.Fatal(err)
	}
	var failed *jsbroker.PublishError
	if err := receive(t, results); !errors.Is(err, jsbroker.ErrStreamFull) || !errors.As(err, &failed) || failed.MessageID != "mine" {
		t.Fatalf("done: %v", err)
	}
	if len(results) > 0 {
		t.Fatal("done was called for a publish that returned an error")
	}
}

func TestAsyncWindowHoldsBack(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()), jsbroker.WithAsyncWindow(2))
	publish(t, b, "orders", "first")
	p.Stall()
	results := make(chan error, 10)
	async := jsbroker.Async(func(err error) { results <- err })
	for range 2 {
		if err := b.Publish("orders", message("x"), async); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := b.Publish("orders", message("x"), async, broker.PublishContext(ctx)); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, jsbroker.ErrPublishUnknown) {
		t.Fatalf("third Publish: %v, want that it was not sent", err)
	}
	p.Resume()
	for range 2 {
		if err := receive(t, results); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAsyncSurvivesALostConnection(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()))
	publish(t, b, "orders", "first")
	p.Stall()
	const n = 20
	results := make(chan error, n)
	for i := range n {
		if err := b.Publish("orders", message(fmt.Sprint(i)), broker.PublishContext(testContext(t)), jsbroker.Async(func(err error) { results <- err })); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "they are sent", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == n+1 })
	p.Cut()
	p.Resume()
	for range n {
		if err := receive(t, results); err != nil {
			t.Fatal(err)
		}
	}
	if stored := streamInfo(t, js, "ORDERS").State.Msgs; stored != n+1 {
		t.Fatalf("%d stored, want %d: a repeated try stored twice", stored, n+1)
	}
}

// What is done, and not told of yet, holds back as what has no answer does, but not done
// itself.
func TestAsyncHoldsBackWhileDoneIsBusy(t *testing.T) {
	t.Parallel()
	const window = 10
	b := newBroker(t, startServer(t), jsbroker.WithAsyncWindow(window))
	publish(t, b, "orders", "first")
	busy, release, told := make(chan struct{}, 1), make(chan struct{}), make(chan error, 4*window)
	err := b.Publish("orders", message("busy"), jsbroker.Async(func(err error) {
		busy <- struct{}{}
		<-release
		told <- err
		told <- b.Publish("orders", message("by done"), jsbroker.Async(func(err error) { told <- err }))
	}))
	noErr(t, err)
	receive(t, busy)
	accepted := 0
	for err == nil && accepted < 4*window {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if err = b.Publish("orders", message("x"), broker.PublishContext(ctx), jsbroker.Async(func(err error) { told <- err })); err == nil {
			accepted++
		}
		cancel()
	}
	wantError(t, err, context.DeadlineExceeded, "done")
	if accepted > 2*window {
		t.Errorf("%d more were accepted, with a window of %d", accepted, window)
	}
	close(release)
	for range 3 + accepted {
		noErr(t, receive(t, told))
	}
	publishAsync(t, b, "orders", "there is room again")
}

// A stream that cannot take in as much at once gets it later.
func TestPublishWaitsForTheStreamsBuffer(t *testing.T) {
	t.Parallel()
	s := startServer(t, func(o *server.Options) { o.StreamMaxBufferedMsgs = 10 })
	nc, js := natsConn(t, s)
	var refused atomic.Int64
	_, err := nc.Subscribe("_INBOX.>", func(m *nats.Msg) {
		if strings.Contains(string(m.Data), `"err_code":10167`) {
			refused.Add(1)
		}
	})
	noErr(t, err)
	noErr(t, nc.Flush())
	b := newBroker(t, s)
	const n = 200
	told := make(chan error, n)
	rounds := 0
	eventually(t, "some are refused", func() bool {
		rounds++
		for range n {
			noErr(t, b.Publish("orders", message("x"), broker.PublishContext(testContext(t)), jsbroker.Async(func(err error) { told <- err })))
		}
		for range n {
			noErr(t, receive(t, told))
		}
		return refused.Load() > 0
	})
	if stored := streamInfo(t, js, "ORDERS").State.Msgs; stored != uint64(rounds*n) {
		t.Errorf("%d stored of %d", stored, rounds*n)
	}
}

// The user's function for stream names is called when the stream is made, and once more
// when that is gone: then on a goroutine of the publish.
func TestAsyncEndsWhateverTheCallersCodeDoes(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for name, do := range map[string]func(){"panicked": func() { panic("no") }, "Goexit": runtime.Goexit, "in time": func() { <-release }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			var bad atomic.Bool
			ends, onEnd := hookChan[jsbroker.Published]()
			b := newBroker(t, s, jsbroker.WithAsyncWindow(1), jsbroker.WithHooks(jsbroker.Hooks{Published: onEnd}), jsbroker.WithStreamName(func(string) string {
				if bad.Load() {
					do()
				}
				return "X"
			}))
			publish(t, b, "orders", "x")
			noErr(t, receive(t, ends).Err)
			bad.Store(true)
			noErr(t, js.DeleteStream(testContext(t), "X"))
			for range 2 { // there is room for one
				told := make(chan error, 1)
				if err := b.Publish("orders", message("x"), jsbroker.Async(func(err error) { told <- err })); err != nil {
					told <- err // the stream is not known any more
				}
				wantError(t, receive(t, told), jsbroker.ErrInvalidConfig, "WithStreamName", name)
				if e := receive(t, ends); e.Err == nil {
					t.Error("the hook was told of a success")
				}
			}
			bad.Store(false)
			publish(t, b, "orders", "x")
			noErr(t, b.Disconnect())
		})
	}
}

func TestDisconnectFlushesAsyncPublishes(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	const n = 200
	var ok atomic.Int64
	for range n {
		if err := b.Publish("orders", message("x"), jsbroker.Async(func(err error) {
			if err == nil {
				ok.Add(1)
			}
		})); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
	if stored := streamInfo(t, js, "ORDERS").State.Msgs; stored != n || ok.Load() != n {
		t.Fatalf("%d stored, %d reported, want %d", stored, ok.Load(), n)
	}
}

func TestAsyncReportsOneAfterTheOtherWhateverDoneDoes(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	publish(t, b, "orders", "first") // the stream is known: the next ones go out in order
	const n = 100
	var running atomic.Int64
	order := make(chan int, n)
	followedUp := make(chan error, n)
	for i := range n {
		err := b.Publish("orders", message("x"), jsbroker.Async(func(err error) {
			if err != nil {
				t.Error(err)
			}
			if running.Add(1) != 1 {
				t.Error("two run at a time")
			}
			defer running.Add(-1)
			order <- i
			switch i % 10 {
			case 3:
				runtime.Goexit()
			case 5:
				followedUp <- b.Publish("orders", message("waits"))
			case 7:
				if err := b.Publish("orders", message("does not"), jsbroker.Async(func(err error) { followedUp <- err })); err != nil {
					t.Error(err)
				}
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		if got := receive(t, order); got != i {
			t.Fatalf("message %d is reported, want %d", got, i)
		}
	}
	for range n / 5 {
		if err := receive(t, followedUp); err != nil {
			t.Error(err)
		}
	}
}

// The window has room for one, so whatever is not released shows at once.
func TestAPanicOfDoneIsContained(t *testing.T) {
	t.Parallel()
	log := natstest.NewLog()
	b := newBroker(t, startServer(t), broker.Logger(log), jsbroker.WithAsyncWindow(1))
	const n = 9
	called := make(chan int, n)
	for i := range n {
		noErr(t, b.Publish("orders", message("x"), broker.PublishContext(testContext(t)), jsbroker.Async(func(err error) {
			if err != nil {
				t.Error(err)
			}
			called <- i
			switch i % 3 {
			case 0:
				panic("no")
			case 1:
				runtime.Goexit()
			}
		})))
	}
	for i := range n {
		if got := receive(t, called); got != i {
			t.Fatalf("done of message %d was called, want %d", got, i)
		}
	}
	publishAsync(t, b, "orders", "there is room again")
	wantLine(t, log, logger.ErrorLevel, "done of Async panicked: no", map[string]any{"topic": "orders"})
	noErr(t, b.Disconnect())
}

func TestAsyncEndsAtEachDeadlineWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()))
	publish(t, b, "orders", "first")
	p.Stall()
	ended := make(chan time.Duration, 3)
	// The earliest deadline is neither the first nor the last to be waited for.
	begin := time.Now()
	for _, limit := range []time.Duration{2 * time.Second, time.Second, 3 * time.Second} {
		ctx, cancel := context.WithDeadline(context.Background(), begin.Add(limit))
		defer cancel()
		err := b.Publish("orders", message("x"), broker.PublishContext(ctx), jsbroker.Async(func(err error) {
			if !errors.Is(err, jsbroker.ErrPublishUnknown) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("done: %v", err)
			}
			if deadline, _ := ctx.Deadline(); time.Now().Before(deadline) {
				t.Errorf("done before the deadline of %v", limit)
			}
			ended <- limit
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second} {
		if got := receive(t, ended); got != want {
			t.Errorf("ended at %v, want %v", got, want)
		}
	}
	p.Resume()
}

// While the network takes nothing in, a publish can end before its message has
// been handed to the client: as long as that may read the body, done is not called.
func TestAsyncBodyIsNotReadAfterDone(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	p := natstest.StartProxy(t, s)
	b := newBroker(t, s, broker.Addrs(p.URL()))
	publish(t, b, "orders", "first")
	p.TakeNothing()
	ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	var publishers sync.WaitGroup
	for range 100 { // more than buffers hold
		publishers.Go(func() {
			body := make([]byte, 200<<10)
			copy(body, "mine")
			over := make(chan struct{})
			if err := b.Publish("orders", &broker.Message{Body: body}, broker.PublishContext(ctx), jsbroker.Async(func(error) {
				copy(body, "used")
				close(over)
			})); err == nil {
				<-over
			}
		})
	}
	<-ctx.Done()
	// Long enough for those who are told too early to change their bodies.
	patient, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	<-patient.Done()
	p.TakeAgain()
	publishers.Wait()
	publish(t, b, "orders", "last", broker.PublishContext(testContext(t)))
	st, err := js.Stream(testContext(t), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(2); seq < streamInfo(t, js, "ORDERS").State.LastSeq; seq++ {
		m, err := st.GetMsg(testContext(t), seq)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(m.Data, []byte("mine")) {
			t.Errorf("message %d was stored as it was changed after done", seq)
		}
	}
}
