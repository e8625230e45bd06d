package produce_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/goroutine"
	"go-micro-jetstream/broker/internal/wire"
)

func TestAsyncTellsOfEachMessageOnceAndInOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 16)
	b.store("orders.created", "first") // the order of the first message of a stream is not certain
	const n = 500
	acks := make(chan wire.PubAck, n)
	for i := range n {
		ctx, cancel := context.WithCancel(b.ctx)
		noErr(t, b.PublishAsync(ctx, message("orders.created", fmt.Sprint(i)), doneFunc(func(ack wire.PubAck, err error) {
			if err != nil || !b.RunsOn(goroutine.ID()) {
				t.Errorf("on the goroutine of completions: %v; error %v", b.RunsOn(goroutine.ID()), err)
			}
			acks <- ack
		})))
		cancel() // means nothing any more
	}
	receive(t, b.Shutdown())
	if len(acks) != n || b.Inside() != 0 || b.RunsOn(goroutine.ID()) {
		t.Fatalf("%d told, %d inside", len(acks), b.Inside())
	}
	for i := range n {
		if got, want := <-acks, (wire.PubAck{Stream: "ORDERS", Sequence: uint64(i) + 2}); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}
	}
}

func TestAsyncWindowHoldsBack(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 2)
	speak := b.silence(2 * time.Minute)
	done := make(told, 3)
	for range 2 {
		noErr(t, b.PublishAsync(b.ctx, message("orders.created", "x"), done))
	}
	ctx, cancel := context.WithTimeout(b.ctx, 50*time.Millisecond)
	defer cancel()
	err := b.PublishAsync(ctx, message("orders.created", "x"), done)
	wantError(t, err, context.DeadlineExceeded)
	wantNot(t, err, fault.ErrPublishUnknown)
	if want := "not sent: 2 messages wait for their answers: context deadline exceeded"; err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	speak()
	b.Interrupt()
	for range 2 {
		noErr(t, receive(t, done).err)
	}
	noErr(t, b.PublishAsync(b.ctx, message("orders.created", "x"), done))
	noErr(t, receive(t, done).err)
}

// Publishes that are over, but not told of, hold back as well. Done itself is not held
// back.
func TestAsyncHoldsBackWhileDoneIsBusy(t *testing.T) {
	t.Parallel()
	const window = 5
	b := newBench(t, startServer(t), window)
	b.store("orders.created", "first")
	busy, release, done := make(chan struct{}), make(chan struct{}), make(told, 4*window)
	noErr(t, b.PublishAsync(b.ctx, message("orders.created", "x"), doneFunc(func(wire.PubAck, error) {
		close(busy)
		<-release
		if err := b.PublishAsync(b.ctx, message("orders.created", "by done"), done); err != nil {
			t.Error(err)
		}
		runtime.Goexit() // others are told all the same
	})))
	receive(t, busy)
	var err error
	accepted := 0
	for ; err == nil && accepted < 4*window; accepted++ {
		ctx, cancel := context.WithTimeout(b.ctx, 2*time.Second) // what is accepted has to be stored within that
		err = b.PublishAsync(ctx, message("orders.created", "x"), done)
		cancel()
	}
	accepted-- // the last was not
	wantError(t, err, context.DeadlineExceeded)
	if accepted > 2*window {
		t.Errorf("%d more were accepted, with a window of %d", accepted, window)
	}
	close(release)
	for range accepted + 1 {
		noErr(t, receive(t, done).err)
	}
}

func TestCloseTellsOfPublishesWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 10)
	b.silence(2 * time.Minute)
	const n = 3
	done := make(told, n)
	for range n {
		noErr(t, b.PublishAsync(b.ctx, message("orders.created", "x"), done))
	}
	empty := b.Shutdown()
	if b.Inside() != n || len(empty) > 0 {
		t.Errorf("%d inside", b.Inside())
	}
	b.conn.Close()
	for range n {
		wantError(t, receive(t, done).err, fault.ErrPublishUnknown)
	}
	receive(t, empty)
}

// The user's function for stream names may panic. The publish leaves then, with an error.
func TestPanicBeforeTheFirstTry(t *testing.T) {
	t.Parallel()
	b := newBench(t, startServer(t), 1)
	m := message("orders.created", "x")
	rules := *m.Rules
	rules.StreamName = func(string) string { panic("no") }
	m.Rules = &rules
	for range 2 { // there is room for one
		wantError(t, b.PublishAsync(b.ctx, m, make(told)), fault.ErrInvalidConfig)
		_, err := b.Publish(b.ctx, m)
		wantError(t, err, fault.ErrInvalidConfig)
	}
	if n := b.Inside(); n != 0 {
		t.Errorf("%d inside", n)
	}
}
