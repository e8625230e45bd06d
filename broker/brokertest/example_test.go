package brokertest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/brokertest"
)

// charge is the handler under test.
func charge(e broker.Event) error {
	switch {
	case len(e.Message().Body) == 0:
		return jsbroker.Discard(errors.New("no order"))
	case jsbroker.NumDelivered(e) == 1:
		return jsbroker.RetryAfter(time.Minute, errors.New("card service timed out"))
	}
	return nil
}

// The policy of a handler, without a server.
func ExampleHandle() {
	s := brokertest.Handle(charge, brokertest.NewEvent("orders.created", nil))
	fmt.Println(s.Result, s.Err)
	s = brokertest.Handle(charge, brokertest.NewEvent("orders.created", &broker.Message{Body: []byte("4711")}))
	fmt.Println(s.Result, s.Delay, s.Err)
	// Output:
	// term no order
	// nak 1m0s card service timed out
}

// A handler that publishes finds what a delivery has.
func ExampleNewEvent() {
	e := brokertest.NewEvent("orders.created", &broker.Message{Header: map[string]string{"Tenant": "a"}})
	fmt.Println(e.Topic(), e.Message().Header["Tenant"], e.Settlement().Result)
	// Output: orders.created a none
}

// A handler that behaves differently when a message comes again.
func ExampleDeliveries() {
	e := brokertest.NewEvent("orders.created", &broker.Message{Body: []byte("4711")}, brokertest.Deliveries(2))
	fmt.Println(brokertest.Handle(charge, e).Result)
	// Output: ack
}

// A handler that heeds its context.
func ExampleContext() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s := brokertest.Handle(func(e broker.Event) error {
		return jsbroker.EventContext(e).Err()
	}, brokertest.NewEvent("orders.created", nil, brokertest.Context(ctx)))
	fmt.Println(s.Result, s.Err)
	// Output: nak context canceled
}

// A handler that settles by itself, and lets go when the service stops.
func ExampleEvent() {
	e := brokertest.NewEvent("orders.created", nil)
	e.Stop()
	<-jsbroker.Stopping(e)
	fmt.Println(jsbroker.Nak(e, time.Second), e.Settlement().Result, e.Settlement().Delay)
	fmt.Println(errors.Is(e.Ack(), jsbroker.ErrAlreadySettled))
	// Output:
	// <nil> nak 1s
	// true
}

func TestHandle(t *testing.T) {
	t.Parallel()
	failed := errors.New("failed")
	for name, test := range map[string]struct {
		handler broker.Handler
		want    brokertest.Settlement
	}{
		"ack":     {func(broker.Event) error { return nil }, brokertest.Settlement{Result: jsbroker.ResultAck}},
		"error":   {func(broker.Event) error { return failed }, brokertest.Settlement{Result: jsbroker.ResultNak, Err: failed}},
		"snooze":  {func(broker.Event) error { return jsbroker.Snooze(time.Hour) }, brokertest.Settlement{Result: jsbroker.ResultNak, Delay: time.Hour, Snoozed: true}},
		"by hand": {func(e broker.Event) error { return jsbroker.Terminate(e, "why") }, brokertest.Settlement{Result: jsbroker.ResultTerm, Reason: "why"}},
	} {
		if got := brokertest.Handle(test.handler, brokertest.NewEvent("orders", nil, nil)); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
	s := brokertest.Handle(func(broker.Event) error { panic(jsbroker.Snooze(0)) }, brokertest.NewEvent("orders", nil))
	var p *jsbroker.PanicError
	if s.Result != jsbroker.ResultNak || s.Snoozed || !errors.As(s.Err, &p) || len(p.Stack) == 0 {
		t.Errorf("panic: %+v", s)
	}
}
