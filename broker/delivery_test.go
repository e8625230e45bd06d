package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// foreign is an event of another broker.
type foreign struct{ broker.Event }

func TestEventsOfOtherBrokers(t *testing.T) {
	t.Parallel()
	for _, e := range []broker.Event{nil, foreign{}} {
		wantError(t, jsbroker.Nak(e, 0), jsbroker.ErrForeign, "nak")
		wantError(t, jsbroker.Terminate(e, "why"), jsbroker.ErrForeign, "terminate")
		if jsbroker.Stopping(e) != nil || jsbroker.NumDelivered(e) != 0 || jsbroker.EventContext(e).Err() != nil {
			t.Errorf("%T passes for an own one", e)
		}
	}
}

// settledByHand subscribes with DisableAutoAck and hands the events over when the
// handler has returned.
func settledByHand(t *testing.T, b broker.Broker) <-chan broker.Event {
	t.Helper()
	events := make(chan broker.Event, 100)
	subscribe(t, b, "orders", func(e broker.Event) error {
		events <- e
		return nil
	}, broker.Queue("q"), broker.DisableAutoAck())
	return events
}

func TestSettlingFromOutsideTheHandler(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	handled, onHandled := hookChan[jsbroker.Handled]()
	settled, onSettled := hookChan[jsbroker.Settled]()
	b := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Handled: onHandled, Settled: onSettled}))
	events := settledByHand(t, b)
	publish(t, b, "orders", "1")

	e := receive(t, events)
	if h := receive(t, handled); h.Result != jsbroker.ResultNone {
		t.Errorf("%+v", h)
	}
	noErr(t, jsbroker.Nak(e, 20*time.Millisecond))
	if s := receive(t, settled); s.Result != jsbroker.ResultNak || s.Delay != 20*time.Millisecond {
		t.Errorf("%+v", s)
	}
	for _, err := range []error{jsbroker.Nak(e, 0), jsbroker.Terminate(e, ""), e.Ack()} {
		wantError(t, err, jsbroker.ErrAlreadySettled)
	}
	e = receive(t, events)
	if n := jsbroker.NumDelivered(e); n != 2 {
		t.Errorf("delivery %d, want the second", n)
	}
	advisories := make(chan string, 1)
	nc, _ := natsConn(t, s)
	_, err := nc.Subscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>", func(m *nats.Msg) { advisories <- string(m.Data) })
	noErr(t, err)
	noErr(t, nc.Flush())
	noErr(t, jsbroker.Terminate(e, "no such customer"))
	if text := receive(t, advisories); !strings.Contains(text, `"reason":"no such customer"`) {
		t.Errorf("the advisory says %s", text)
	}
	if s := receive(t, settled); s.Result != jsbroker.ResultTerm {
		t.Errorf("%+v", s)
	}
	eventually(t, "the message is gone", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
}

// What a handler has said itself counts, not its return.
func TestSettlingInsideTheHandler(t *testing.T) {
	t.Parallel()
	handled, onHandled := hookChan[jsbroker.Handled]()
	b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{Handled: onHandled}))
	subscribe(t, b, "orders", func(e broker.Event) error {
		if jsbroker.NumDelivered(e) == 1 {
			return jsbroker.Nak(e, 20*time.Millisecond)
		}
		return jsbroker.Terminate(e, "")
	}, broker.Queue("q"))
	publish(t, b, "orders", "1")
	if h := receive(t, handled); h.Result != jsbroker.ResultNak || h.Delay != 20*time.Millisecond || h.Err != nil {
		t.Errorf("%+v", h)
	}
	if h := receive(t, handled); h.Result != jsbroker.ResultTerm || h.Err != nil {
		t.Errorf("%+v", h)
	}
}

func TestTerminatingMakesADeadLetter(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t), jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2}))
	events := settledByHand(t, b)
	letters := make(chan *broker.Message, 10)
	subscribe(t, b, "graves", func(e broker.Event) error {
		letters <- e.Message()
		return nil
	}, broker.Queue("q"))
	publish(t, b, "orders", "terminated")
	e := receive(t, events)
	clear(e.Message().Body)
	noErr(t, jsbroker.Terminate(e, "no such customer"))
	if m := receive(t, letters); string(m.Body) != "terminated" || m.Header["Micro-Dead-Letter-Reason"] != "no such customer" {
		t.Errorf("%q %v", m.Body, m.Header)
	}
	publish(t, b, "orders", "nakked")
	for range 2 {
		noErr(t, jsbroker.Nak(receive(t, events), 0))
	}
	if m := receive(t, letters); string(m.Body) != "nakked" || m.Header["Micro-Dead-Letter-Deliveries"] != "2" {
		t.Errorf("%q %v", m.Body, m.Header)
	}
}

// acks returns the acknowledgements that are sent to a stream's consumers.
func acks(t *testing.T, s *server.Server, stream string) <-chan string {
	t.Helper()
	nc, _ := natsConn(t, s)
	bodies := make(chan string, 1000)
	_, err := nc.Subscribe("$JS.ACK."+stream+".>", func(m *nats.Msg) { bodies <- string(m.Data) })
	noErr(t, err)
	noErr(t, nc.Flush())
	return bodies
}

// A dead letter may take longer to store than AckWait.
func TestMessageIsKeptFromOthersWhileItsDeadLetterIsStored(t *testing.T) {
	t.Parallel()
	for name, inside := range map[string]bool{"by the handler": true, "after the handler": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			options := []broker.Option{jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 3 * time.Second})}
			storing, goOn := make(chan struct{}), make(chan struct{})
			b := newBroker(t, s, append(options, jsbroker.WithHooks(jsbroker.Hooks{PublishStart: func(ctx context.Context, e jsbroker.PublishStart) context.Context {
				if e.Topic == "graves" {
					close(storing)
					<-goOn
				}
				return ctx
			}}))...)
			events, terminated := make(chan broker.Event, 10), make(chan error, 10)
			subscribe(t, b, "orders", func(e broker.Event) error {
				if inside {
					terminated <- jsbroker.Terminate(e, "no")
				} else {
					events <- e
				}
				return nil
			}, broker.Queue("q"), broker.DisableAutoAck())
			publish(t, b, "orders", "1")
			if !inside {
				e := receive(t, events)
				go func() { terminated <- jsbroker.Terminate(e, "no") }()
			}
			receive(t, storing)
			sent := acks(t, s, "ORDERS")
			h, other := collector()
			subscribe(t, newBroker(t, s, options...), "orders", h, broker.Queue("q"))
			for range 5 { // which takes longer than AckWait
				select {
				case ack := <-sent:
					if ack != "+WPI" {
						t.Fatalf("sent %q", ack)
					}
				case <-other:
					t.Fatal("another replica handles it, too")
				case <-time.After(patience):
					t.Fatal("the ack deadline is not extended")
				}
			}
			close(goOn)
			noErr(t, receive(t, terminated))
			eventually(t, "it is terminated", func() bool { return strings.HasPrefix(receive(t, sent), "+TERM") })
			if len(other)+len(events) > 0 {
				t.Error("it is handled again")
			}
		})
	}
}

// The later ones of its key wait, and so does the message itself, until it is known
// whether the dead letter could be stored.
func TestKeyWaitsWhileADeadLetterIsStored(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "GRAVES", Subjects: []string{"graves"}, MaxMsgs: 1, Discard: jetstream.DiscardNew})
	_, err := js.Publish(testContext(t), "graves", nil)
	noErr(t, err)
	storing, goOn := make(chan struct{}), make(chan struct{})
	b := newBroker(t, s, jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: time.Second}),
		jsbroker.WithHooks(jsbroker.Hooks{PublishStart: func(ctx context.Context, e jsbroker.PublishStart) context.Context {
			if e.Topic == "graves" {
				close(storing)
				<-goOn
			}
			return ctx
		}}))
	events, terminated := make(chan broker.Event, 10), make(chan error, 1)
	subscribe(t, b, "orders", func(e broker.Event) error {
		events <- e
		if string(e.Message().Body) == "a/0" && jsbroker.NumDelivered(e) == 1 {
			go func() { terminated <- jsbroker.Terminate(e, "no") }()
			<-storing
		}
		return nil
	}, ordered(5), broker.DisableAutoAck())
	sent := acks(t, s, "ORDERS")
	publish(t, b, "orders", "a/0")
	publish(t, b, "orders", "a/1")
	first := receive(t, events)
	for range 10 { // which takes longer than AckWait
		if ack := receive(t, sent); ack != "+WPI" {
			t.Fatalf("sent %q", ack)
		}
	}
	if len(events) > 0 {
		e := <-events
		t.Fatalf("handles %s, %d", e.Message().Body, jsbroker.NumDelivered(e))
	}
	close(goOn)
	if err := receive(t, terminated); err == nil {
		t.Fatal("terminated without a dead letter")
	}
	noErr(t, first.Ack())
	if e := receive(t, events); string(e.Message().Body) != "a/1" {
		t.Errorf("handles %s, %d", e.Message().Body, jsbroker.NumDelivered(e))
	}
}

// Where the broker counts, a snooze is no delivery.
func TestSnoozesDoNotUseUpDeliveries(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t), jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 2}))
	failed := make(chan uint64, 100)
	subscribe(t, b, "orders", func(e broker.Event) error {
		n := jsbroker.NumDelivered(e)
		if n <= 20 { // more than the limit and all that the broker spares
			return jsbroker.Snooze(0)
		}
		failed <- n
		return jsbroker.RetryAfter(0, errors.New("fails"))
	}, broker.Queue("q"))
	letters := make(chan uint64, 10)
	subscribe(t, b, "graves", func(e broker.Event) error {
		letters <- jsbroker.NumDelivered(e)
		return nil
	}, broker.Queue("q"))
	publish(t, b, "orders", "1")
	if a, b := receive(t, failed), receive(t, failed); a != 21 || b != 22 {
		t.Errorf("failed on deliveries %d and %d", a, b)
	}
	receive(t, letters)
	if len(failed) > 0 {
		t.Errorf("failed also on delivery %d", <-failed)
	}
}

// The server counts the deliveries to all replicas, and each replica knows only what it
// has snoozed itself.
func TestSnoozesOfTwoReplicasMakeNoDeadLetter(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	options := []broker.Option{jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 3})}
	var snoozes [2]atomic.Int32
	ended := make(chan string, 10)
	for i := range snoozes {
		subscribe(t, newBroker(t, s, options...), "orders", func(broker.Event) error {
			if snoozes[0].Load() >= 20 && snoozes[1].Load() >= 20 {
				ended <- "handled"
				return nil
			}
			snoozes[i].Add(1)
			return jsbroker.Snooze(time.Millisecond)
		}, broker.Queue("q"))
	}
	b := newBroker(t, s, options...)
	subscribe(t, b, "graves", func(e broker.Event) error {
		ended <- e.Message().Header["Micro-Dead-Letter-Reason"]
		return nil
	}, broker.Queue("q"))
	publish(t, b, "orders", "1")
	if end := receive(t, ended); end != "handled" {
		t.Errorf("a dead letter after %d and %d snoozes: %s", snoozes[0].Load(), snoozes[1].Load(), end)
	}
}

// One replica snoozes, the other one fails. Its failures are what counts, however many
// deliveries others have had in between.
func TestSnoozesOfAnotherReplicaBetweenFailuresDoNotCount(t *testing.T) {
	t.Parallel()
	const limit = 3
	s := startServer(t)
	options := []broker.Option{jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: limit}), jsbroker.WithBatchSize(1)}
	var snoozes, failures atomic.Int32 // snoozes: by the other replica since the latest failure
	subscribe(t, newBroker(t, s, options...), "orders", func(broker.Event) error {
		if snoozes.Swap(0) == 0 {
			return jsbroker.Snooze(time.Millisecond) // it is the other one's turn
		}
		failures.Add(1)
		return jsbroker.RetryAfter(time.Millisecond, errors.New("fails"))
	}, broker.Queue("q"))
	subscribe(t, newBroker(t, s, options...), "orders", func(broker.Event) error {
		snoozes.Add(1)
		return jsbroker.Snooze(time.Millisecond)
	}, broker.Queue("q"))
	b := newBroker(t, s, options...)
	letters := make(chan int32, 10)
	subscribe(t, b, "graves", func(broker.Event) error {
		letters <- failures.Load()
		return nil
	}, broker.Queue("undertaker"))
	publish(t, b, "orders", "1")
	if n := receive(t, letters); n != limit {
		t.Errorf("a dead letter after %d failures, want %d", n, limit)
	}
}

// The process that comes after a restart knows of the snoozes, too, but not how many
// there were.
func TestFailuresAfterSnoozesAndARestartHaveAllTheirTries(t *testing.T) {
	t.Parallel()
	options := []broker.Option{jsbroker.WithDeadLetter("graves"), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 3})}
	for _, before := range []int{2, 30} { // fewer than MaxDeliver, and more than are spared
		t.Run(fmt.Sprint(before, " snoozes"), func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			b := newBroker(t, s, options...)
			snoozed := make(chan struct{}, 1000)
			sub := subscribe(t, b, "orders", func(broker.Event) error {
				snoozed <- struct{}{}
				return jsbroker.Snooze(0)
			}, broker.Queue("q"))
			publish(t, b, "orders", "1")
			for range before {
				receive(t, snoozed)
			}
			noErr(t, sub.Unsubscribe())
			noErr(t, b.Disconnect())

			b = newBroker(t, s, options...)
			tries := make(chan struct{}, 100)
			letters := make(chan string, 10)
			subscribe(t, b, "graves", func(e broker.Event) error {
				letters <- e.Message().Header["Micro-Dead-Letter-Reason"]
				return nil
			}, broker.Queue("undertaker"))
			subscribe(t, b, "orders", func(broker.Event) error {
				tries <- struct{}{}
				return jsbroker.RetryAfter(0, errors.New("fails"))
			}, broker.Queue("q"))
			reason := receive(t, letters)
			if n := len(tries); n != 3 || reason != "fails" {
				t.Errorf("a dead letter after %d tries: %s", n, reason)
			}
		})
	}
}

func TestStoppingIsClosedBeforeTheContextEnds(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	for name, stop := range map[string]func(broker.Subscriber) error{
		"unsubscribe": broker.Subscriber.Unsubscribe,
		"disconnect":  func(broker.Subscriber) error { return b.Disconnect() },
	} {
		noErr(t, b.Connect())
		began, saw := make(chan struct{}), make(chan error, 1)
		sub := subscribe(t, b, name, func(e broker.Event) error {
			select {
			case <-jsbroker.Stopping(e):
				t.Error("closed before anybody stops")
			default:
			}
			close(began)
			<-jsbroker.Stopping(e)
			saw <- jsbroker.EventContext(e).Err()
			return nil
		}, broker.Queue("q"))
		publish(t, b, name, "1")
		receive(t, began)
		noErr(t, stop(sub))
		if err := receive(t, saw); err != nil {
			t.Errorf("%s: the context has ended: %v", name, err)
		}
		noErr(t, b.Disconnect())
	}
}
