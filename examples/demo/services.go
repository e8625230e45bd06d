package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	microerrors "go-micro.dev/v5/errors"
	"go-micro.dev/v5/metadata"
	"go-micro.dev/v5/registry"
	"go-micro.dev/v5/server"
	"go-micro.dev/v5/transport"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/metrics"
	"go-micro-jetstream/tracing"
)

const (
	ordersCreated = "orders.created"
	paymentsTaken = "payments.taken"
	shippingSent  = "shipping.sent"
	deadLetters   = "dead-letters.orders"

	maxDeliver  = 3 // deliveries, then a message is a dead letter
	concurrency = 4 // handlers at a time and subscription
)

// Order is what travels. It is exported because go-micro asks for that.
type Order struct {
	ID     string `json:"id"`
	Number int    `json:"number"` // decides what goes wrong
}

func (o *Order) paymentFails() bool  { return o.Number%100 == 7 && !o.shippingFails() }
func (o *Order) shippingFails() bool { return o.Number%500 == 107 }
func (o *Order) panics() bool        { return o.Number%1000 == 13 }

// shop is the three services.
type shop struct {
	services []micro.Service
	created  micro.Event
	books    *ledger
}

// openShop starts the services, the last of the chain first.
func openShop(url string, obs *observability, books *ledger, hooks func(service string) jsbroker.Hooks) (*shop, error) {
	s := &shop{books: books}
	reg := registry.NewMemoryRegistry() // no mDNS: the demo works without a network
	service := func(name string, more ...micro.Option) (micro.Service, broker.Broker) {
		b := jsbroker.NewBroker(
			broker.Addrs(url),
			jsbroker.WithClientName("demo-"+name),
			jsbroker.WithConcurrency(concurrency),
			jsbroker.WithStreamConfig(streamTemplate()),
			jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: maxDeliver}),
			jsbroker.WithDeadLetter(deadLetters),
			jsbroker.WithHooks(
				metrics.New(metrics.WithRegisterer(obs.registry)),
				tracing.New(tracing.WithTracerProvider(obs.provider(name)), tracing.WithPropagator(propagator)),
				hooks(name), // and one of the demo's own
			),
		)
		svc := micro.New(name, append([]micro.Option{
			micro.Broker(b), // before Registry, which tells the broker, too
			micro.Registry(reg),
			// No ports either. Each has its own: a shared one gives out its
			// addresses at random, and now and then one of them twice.
			micro.Transport(transport.NewMemoryTransport()),
			micro.Address("127.0.0.1:0"),
			micro.HandleSignal(false), // main decides when to stop
			// Stop returns before the server has disconnected its broker. This
			// waits for it, so that no acknowledgement is lost.
			micro.AfterStop(b.Disconnect),
		}, more...)...)
		_ = svc.Client().Init(client.ContentType("application/json"))
		// No svc.Init: it would parse the command line, which is the demo's.
		s.services = append(s.services, svc)
		return svc, b
	}

	shippingService, _ := service("shipping")
	ship := &shipping{sent: micro.NewEvent(shippingSent, shippingService.Client())}
	paymentService, _ := service("payments")
	pay := &payments{taken: micro.NewEvent(paymentsTaken, paymentService.Client())}
	desk := &orderDesk{books: books}
	var orderBroker broker.Broker
	orderService, orderBroker := service("orders", micro.AfterStart(func() error {
		_, err := orderBroker.Subscribe(shippingSent, desk.shipped, broker.Queue("orders"))
		return err
	}))
	s.created = micro.NewEvent(ordersCreated, orderService.Client())

	err := errors.Join(
		micro.RegisterSubscriber(paymentsTaken, shippingService.Server(), ship.send, server.SubscriberQueue("shipping")),
		micro.RegisterSubscriber(ordersCreated, paymentService.Server(), pay.take, server.SubscriberQueue("payments")),
		micro.RegisterSubscriber(deadLetters, orderService.Server(), desk.dead, server.SubscriberQueue("orders")),
	)
	for _, svc := range s.services {
		if err == nil {
			err = svc.Start()
		}
	}
	if err != nil {
		_ = s.close()
		return nil, err
	}
	return s, nil
}

// close stops the services, the first of the chain first.
func (s *shop) close() error {
	var errs []error
	for _, v := range slices.Backward(s.services) {
		errs = append(errs, v.Stop())
	}
	return errors.Join(errs...)
}

// customers publish orders at the rate until there are n, or, with n 0, until
// the context ends.
func (s *shop) customers(ctx context.Context, n int, rate float64, notices chan<- string) {
	began := time.Now()
	for number := 1; n == 0 || number <= n; number++ {
		due := began.Add(time.Duration(float64(number-1) / rate * float64(time.Second)))
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return
		}
		o := &Order{ID: s.books.open(number), Number: number}
		for {
			err := s.created.Publish(ctx, o, messageID("order-"+o.ID))
			if err == nil {
				s.books.published(o.ID)
				break
			}
			tell(notices, fmt.Sprintf("Order %d was not published, trying again: %v", number, err))
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return // neither published nor lost: the customer knows
			}
		}
	}
}

// messageID is [jsbroker.MessageID] for go-micro's client: what is published
// with it a second time is stored once.
func messageID(id string) client.PublishOption {
	var o broker.PublishOptions
	jsbroker.MessageID(id)(&o)
	return client.PublishContext(o.Context)
}

// payments takes the money for an order.
type payments struct {
	taken micro.Event
	tried sync.Map // orders whose payment has failed once
}

// take is all that a go-micro user writes: no broker, and no tracing. The
// context holds the headers of the message, so that what is published with it
// belongs to the same trace.
func (p *payments) take(ctx context.Context, o *Order) error {
	work(o)
	if o.paymentFails() {
		if _, again := p.tried.LoadOrStore(o.ID, true); !again {
			return errors.New("card service timed out")
		}
	}
	return p.taken.Publish(ctx, o, messageID("payment-"+o.ID))
}

// shipping sends the goods.
type shipping struct {
	sent micro.Event
}

func (s *shipping) send(ctx context.Context, o *Order) error {
	work(o)
	if o.shippingFails() {
		return errors.New("no such address")
	}
	return s.sent.Publish(ctx, o, messageID("shipment-"+o.ID))
}

// orderDesk hears how its orders ended.
type orderDesk struct {
	books *ledger
}

// shipped is subscribed with the broker's own API: it sees the event, and its
// panics are the broker's to recover. go-micro's server recovers those of its
// subscribers itself, and the broker sees an error.
func (d *orderDesk) shipped(e broker.Event) error {
	var o Order
	if err := json.Unmarshal(e.Message().Body, &o); err != nil {
		return jsbroker.Discard(err) // it will not get better
	}
	if o.panics() && jsbroker.NumDelivered(e) == 1 {
		panic("the order desk has a bug")
	}
	d.books.shipped(o.ID)
	return nil
}

// dead is given the message that failed for good, and why in its headers.
func (d *orderDesk) dead(ctx context.Context, o *Order) error {
	h, _ := metadata.FromContext(ctx)
	deliveries, _ := strconv.Atoi(h["Micro-Dead-Letter-Deliveries"])
	d.books.dead(o.ID, deadLetter{
		number:     o.Number,
		topic:      h["Micro-Dead-Letter-Topic"],
		queue:      h["Micro-Dead-Letter-Queue"],
		deliveries: deliveries,
		reason:     plainReason(h["Micro-Dead-Letter-Reason"]),
	})
	return nil
}

// plainReason takes a handler's words out of the JSON that go-micro's server
// wraps them in.
func plainReason(text string) string {
	return strings.TrimPrefix(microerrors.Parse(text).Detail, "subscriber error: ")
}

// work stands for what a handler does.
func work(o *Order) { time.Sleep(time.Duration(1+o.Number%4) * time.Millisecond) }

// observer makes the demo's own hooks: go-micro only logs a subscription that
// fails, and the demo would wait for ever.
func observer(notices chan<- string, giveUp context.CancelCauseFunc) func(string) jsbroker.Hooks {
	return func(service string) jsbroker.Hooks {
		return jsbroker.Hooks{
			SubscribeFailed: func(_ context.Context, e jsbroker.SubscribeFailed) { giveUp(e.Err) },
			ConnectionChanged: func(_ context.Context, e jsbroker.ConnectionChanged) {
				switch e.State {
				case jsbroker.StateDisconnected:
					tell(notices, fmt.Sprintf("%s: connection to the server lost", service))
				case jsbroker.StateReconnected:
					tell(notices, fmt.Sprintf("%s: connected again to %s", service, e.URL))
				}
			},
		}
	}
}

// tell never waits: hooks must not.
func tell(notices chan<- string, text string) {
	select {
	case notices <- text:
	default:
	}
}
