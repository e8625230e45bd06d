package docs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/server"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/brokertest"
	"go-micro-jetstream/broker/wrapper"
	"go-micro-jetstream/internal/natstest"
)

// watch returns a hook that passes on how deliveries were handled.
func watch() (jsbroker.Hooks, chan jsbroker.Handled) {
	handled := make(chan jsbroker.Handled, 100)
	return jsbroker.Hooks{Handled: func(_ context.Context, e jsbroker.Handled) { handled <- e }}, handled
}

// Choose the delays between retries
func TestRetryDelays(t *testing.T) {
	with := begin(t)
	url := with.url
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{
		MaxDeliver: 5,
		BackOff:    []time.Duration{time.Second, 10 * time.Second, time.Minute, 10 * time.Minute},
	}))
	hook, handled := watch()
	must(t, b.Init(jsbroker.WithHooks(hook)))
	connect(t, b)
	_, err := b.Subscribe("orders.created", func(broker.Event) error { return errors.New("no") }, broker.Queue("payments"))
	must(t, err)
	must(t, b.Publish("orders.created", with.msg))
	for _, want := range []time.Duration{time.Second, 10 * time.Second} {
		e := natstest.Receive(t, handled)
		if e.Result != jsbroker.ResultNak || e.Delay < want || e.Delay > want+want/5 {
			t.Fatalf("%s after %v, want a nak of %v", e.Result, e.Delay, want)
		}
		if e.NumDelivered == 1 {
			continue
		}
		return
	}
}

// Change a retry policy later
func TestChangeRetryPolicy(t *testing.T) {
	with := begin(t)
	b, handler := with.b, with.handler
	sub, err := b.Subscribe("orders.created", handler, broker.Queue("payments"))
	must(t, err)
	must(t, sub.Unsubscribe())
	{
		_, err := b.Subscribe("orders.created", handler, broker.Queue("payments"),
			jsbroker.ConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 10, AckWait: time.Minute}))
		must(t, err)
	}
	if cfg := natstest.ConsumerInfo(t, with.js, "ORDERS", "payments").Config; cfg.MaxDeliver != 10 || cfg.AckWait != time.Minute {
		t.Fatalf("MaxDeliver is %d, AckWait %v", cfg.MaxDeliver, cfg.AckWait)
	}
}

// Wait without a failure
func TestSnooze(t *testing.T) {
	hook, handled := watch()
	with := begin(t, jsbroker.WithHooks(hook))
	b, handler := with.b, with.handler
	shopIsOpen := func() bool { return false }
	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		if !shopIsOpen() {
			return jsbroker.Snooze(10 * time.Minute)
		}
		return handler(e)
	}, broker.Queue("payments"))
	must(t, err)
	must(t, b.Publish("orders.created", with.msg))
	if e := natstest.Receive(t, handled); !e.Snoozed || e.Err != nil || e.Delay != 10*time.Minute {
		t.Fatalf("handled as %+v", e)
	}
}

// Keep what fails for good
func TestDeadLetters(t *testing.T) {
	with := begin(t)
	url := with.url
	b := jsbroker.NewBroker(broker.Addrs(url),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 5}),
		jsbroker.WithDeadLetter("dead-letters.orders"),
	)
	connect(t, b)
	_, err := b.Subscribe("orders.created", func(broker.Event) error {
		return jsbroker.RetryAfter(0, errors.New("no such card"))
	}, broker.Queue("payments"))
	must(t, err)
	letters := make(chan string, 1)
	_, err = b.Subscribe("dead-letters.orders", func(e broker.Event) error {
		h := e.Message().Header
		letters <- h["Micro-Dead-Letter-Topic"] + ": " + h["Micro-Dead-Letter-Reason"] + ", " + h["Micro-Dead-Letter-Deliveries"]
		return nil
	}, broker.Queue("letters"))
	must(t, err)
	must(t, b.Publish("orders.created", with.msg))
	if letter := natstest.Receive(t, letters); letter != "orders.created: no such card, 5" {
		t.Fatalf("the dead letter is %q", letter)
	}
	natstest.StreamInfo(t, with.js, "DEAD_LETTERS")
}

// Send dead letters back
func TestRedrive(t *testing.T) {
	with := begin(t, jsbroker.WithDeadLetter("dead-letters.orders"))
	b, ctx := with.b, with.ctx
	mended := make(chan struct{})
	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		select {
		case <-mended:
			return with.handler(e)
		default:
			return jsbroker.Discard(errors.New("no such card"))
		}
	}, broker.Queue("payments"))
	must(t, err)
	must(t, b.Publish("orders.created", with.msg))
	natstest.Eventually(t, "there is a dead letter", func() bool {
		s, err := with.js.Stream(ctx, "DEAD_LETTERS")
		return err == nil && s.CachedInfo().State.Msgs == 1
	})
	close(mended)
	n, err := jsbroker.Redrive(ctx, b, "dead-letters.orders",
		jsbroker.RedriveFilter(func(d jsbroker.DeadLetter) bool { return d.Queue == "payments" }))
	slog.Info("sent back", "letters", n, "error", err)
	must(t, err)
	if body := natstest.Receive(t, with.got); n != 1 || body != "4711" {
		t.Fatalf("%d redriven, got %q", n, body)
	}
}

// Handle several messages at a time
func TestSeveralAtATime(t *testing.T) {
	with := begin(t)
	b := with.b
	began, end := make(chan struct{}), make(chan struct{})
	handler := func(broker.Event) error {
		began <- struct{}{}
		<-end
		return nil
	}
	charge := func(context.Context, *Order) error { return handler(nil) }
	{
		_, err := b.Subscribe("orders.created", handler, broker.Queue("payments"), jsbroker.Concurrency(8))
		must(t, err)
	}
	service, start := newService(t, b)
	err := micro.RegisterSubscriber("orders.paid", service.Server(), charge,
		server.SubscriberQueue("payments"), wrapper.SubscriberOptions(jsbroker.Concurrency(8)))
	must(t, err)
	start()
	defer close(end) // before the service stops and waits
	for _, topic := range []string{"orders.created", "orders.paid"} {
		for range 8 {
			must(t, b.Publish(topic, &broker.Message{Header: map[string]string{"Content-Type": "application/json"}, Body: []byte(`{}`)}))
		}
		for range 8 {
			natstest.Receive(t, began) // all of them, before one has ended
		}
	}
}

// Keep the order of each key
func TestOrderOfKeys(t *testing.T) {
	with := begin(t)
	b := with.b
	orders := map[string]int{} // by customer: the latest
	handled := make(chan error, 1000)
	var mu sync.Mutex
	handler := func(e broker.Event) error {
		m := e.Message()
		if rand.IntN(10) == 0 && jsbroker.NumDelivered(e) == 1 {
			return jsbroker.RetryAfter(time.Millisecond, errors.New("card service timed out"))
		}
		mu.Lock()
		defer mu.Unlock()
		number, err := strconv.Atoi(m.Header["Number"])
		if latest := orders[m.Header["Customer"]]; err == nil && number != latest+1 {
			err = fmt.Errorf("order %d after order %d", number, latest)
		}
		orders[m.Header["Customer"]] = number
		handled <- err
		return nil
	}
	for i := range 100 {
		m := &broker.Message{Header: map[string]string{"Customer": strconv.Itoa(i % 5), "Number": strconv.Itoa(i/5 + 1)}}
		must(t, b.Publish("orders.created", m))
	}
	_, err := b.Subscribe("orders.*", handler, broker.Queue("payments"), jsbroker.Concurrency(8),
		jsbroker.OrderBy(func(e broker.Event) string { return e.Message().Header["Customer"] }))
	must(t, err)
	for range 100 {
		must(t, natstest.Receive(t, handled))
	}
}

// Let one replica work at a time
func TestOneReplica(t *testing.T) {
	with := begin(t)
	by := make(chan int, 100)
	brokers := []broker.Broker{with.b, connect(t, jsbroker.NewBroker(broker.Addrs(with.url)))}
	for i, b := range brokers {
		handler := func(broker.Event) error {
			by <- i
			return nil
		}
		_, err := b.Subscribe("orders.created", handler, broker.Queue("payments"), jsbroker.SingleActive())
		must(t, err)
	}
	for range 20 {
		must(t, with.b.Publish("orders.created", with.msg))
	}
	active := natstest.Receive(t, by)
	for range 19 {
		if i := natstest.Receive(t, by); i != active {
			t.Fatalf("replica %d handles, and replica %d, too", i, active)
		}
	}
	must(t, jsbroker.Health(with.ctx, brokers[1-active])) // the one that stands by is well
	must(t, brokers[active].Disconnect())
	must(t, brokers[1-active].Publish("orders.created", with.msg))
	if i := natstest.Receive(t, by); i != 1-active {
		t.Fatalf("replica %d handles, which has ended", i)
	}
}

// Handle messages in batches
func TestBatches(t *testing.T) {
	with := begin(t)
	b := with.b
	saved := make(chan int, 10)
	save := func(batch []broker.Event) error {
		saved <- len(batch)
		return nil
	}
	for i := range 250 {
		must(t, b.Publish("orders.created", &broker.Message{Body: fmt.Append(nil, i)}))
	}
	events := make(chan broker.Event)
	go inBatches(events, 100, time.Second, save)
	_, err := b.Subscribe("orders.created", func(e broker.Event) error {
		events <- e
		return nil
	}, broker.Queue("warehouse"), broker.DisableAutoAck())
	must(t, err)
	for sum := 0; sum < 250; {
		sum += natstest.Receive(t, saved)
	}
	natstest.Eventually(t, "all are acknowledged", func() bool { return natstest.StreamInfo(t, with.js, "ORDERS").State.Msgs == 0 })
	must(t, b.Disconnect())
	close(events)
}

// inBatches calls save with n events, or with those that have come within the time.
func inBatches(events <-chan broker.Event, n int, within time.Duration, save func([]broker.Event) error) {
	for first := range events {
		batch, timeout := []broker.Event{first}, time.After(within)
		for more := true; more && len(batch) < n; {
			select {
			case e, ok := <-events:
				if more = ok; ok {
					batch = append(batch, e)
				}
			case <-timeout:
				more = false
			}
		}
		err := save(batch)
		for _, e := range batch {
			if err == nil {
				_ = e.Ack()
			} else {
				_ = jsbroker.Nak(e, 10*time.Second)
			}
		}
	}
}

// Stop gracefully in the middle of a long handler
func TestStopInTime(t *testing.T) {
	hook, handled := watch()
	with := begin(t, jsbroker.WithHooks(hook))
	b := with.b
	began := make(chan struct{}, 1)
	transcodeNextPart := func(broker.Event) bool {
		select {
		case began <- struct{}{}:
		default:
		}
		time.Sleep(time.Millisecond) // work
		return false
	}
	_, err := b.Subscribe("films.added", func(e broker.Event) error {
		for done := false; !done; done = transcodeNextPart(e) {
			select {
			case <-jsbroker.Stopping(e):
				return jsbroker.Snooze(0) // another replica goes on
			default:
			}
		}
		return nil
	}, broker.Queue("transcoding"))
	must(t, err)
	must(t, b.Publish("films.added", with.msg))
	natstest.Receive(t, began)
	must(t, b.Disconnect())
	if e := natstest.Receive(t, handled); e.Result != jsbroker.ResultNak || !e.Snoozed {
		t.Fatalf("handled as %+v", e)
	}
}

// chargeHandler is what somebody's test tests.
func chargeHandler(e broker.Event) error {
	if jsbroker.NumDelivered(e) == 3 {
		return jsbroker.Discard(errors.New("not an order"))
	}
	return errors.New("not an order")
}

// Test a handler without a server
func TestHandlerTest(t *testing.T) { t.Run("it passes", TestCharge) }

func TestCharge(t *testing.T) {
	e := brokertest.NewEvent("orders.created", &broker.Message{Body: []byte("not an order")}, brokertest.Deliveries(3))
	s := brokertest.Handle(chargeHandler, e)
	if s.Result != jsbroker.ResultTerm {
		t.Errorf("settled as %+v, want it discarded", s)
	}
}
