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

	maxDeliver  = 3 // deliveries, after which a message becomes a dead letter
	concurrency = 4 // handlers at a time, per subscription
)

// Order is what the services send to each other. go-micro requires the type to be
// exported.
type Order struct {
	ID     string `json:"id"`
	Number int    `json:"number"` // decides which failures happen
}

func (o *Order) paymentFails() bool  { return o.Number%100 == 7 && !o.shippingFails() }
func (o *Order) shippingFails() bool { return o.Number%500 == 107 }
func (o *Order) panics() bool        { return o.Number%1000 == 13 }

// shop holds the three services.
type shop struct {
	url      string
	registry registry.Registry
	obs      *observability
	books    *ledger
	hooks    func(service string) jsbroker.Hooks
	services []micro.Service // in the order in which they are started
	created  micro.Event     // publishes orders
}

// newService adds a service with a broker of its own.
func (s *shop) newService(name string, more ...micro.Option) (micro.Service, broker.Broker) {
	b := jsbroker.NewBroker(
		broker.Addrs(s.url),
		jsbroker.WithClientName("demo-"+name),
		jsbroker.WithConcurrency(concurrency),
		jsbroker.WithStreamConfig(streamTemplate()),
		jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: maxDeliver}),
		jsbroker.WithDeadLetter(deadLetters),
		jsbroker.WithHooks(
			metrics.New(metrics.WithRegisterer(s.obs.registry)),
			s.obs.page.Hooks(),
			tracing.New(tracing.WithTracerProvider(s.obs.provider(name)), tracing.WithPropagator(propagator)),
			s.hooks(name), // hooks of your own go here, too
		),
	)
	svc := micro.New(name, append([]micro.Option{
		micro.Broker(b), // must precede Registry, which is passed on to the broker
		micro.Registry(s.registry),
		// The memory transport needs no ports. Each service has its own: a shared one
		// assigns addresses at random, and sometimes assigns one twice.
		micro.Transport(transport.NewMemoryTransport()),
		micro.Address("127.0.0.1:0"),
		micro.HandleSignal(false), // main decides when to stop
		// Stop returns before the server has disconnected its broker. Disconnecting it
		// here makes Stop wait, so that no acknowledgement is lost.
		micro.AfterStop(b.Disconnect),
	}, more...)...)
	_ = svc.Client().Init(client.ContentType("application/json"))
	// svc.Init is not called: it would parse the command line, which is the demo's own.
	s.services = append(s.services, svc)
	return svc, b
}

// openShop starts the services, beginning with the last one in the chain.
func openShop(url string, obs *observability, books *ledger, hooks func(service string) jsbroker.Hooks) (*shop, error) {
	s := &shop{
		url: url, obs: obs, books: books, hooks: hooks,
		registry: registry.NewMemoryRegistry(), // unlike mDNS, it works without a network
	}
	shippingService, _ := s.newService("shipping")
	ship := &shipping{sent: micro.NewEvent(shippingSent, shippingService.Client())}
	paymentService, _ := s.newService("payments")
	pay := &payments{taken: micro.NewEvent(paymentsTaken, paymentService.Client())}
	desk := &orderDesk{books: books}
	var orderBroker broker.Broker
	orderService, orderBroker := s.newService("orders", micro.AfterStart(func() error {
		_, err := orderBroker.Subscribe(shippingSent, desk.shipped, broker.Queue("orders"))
		return err
	}))
	s.created = micro.NewEvent(ordersCreated, orderService.Client())

	err := errors.Join(
		obs.watchStreams(orderBroker),
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

// close stops the services, beginning with the first one in the chain.
func (s *shop) close() error {
	var errs []error
	for _, v := range slices.Backward(s.services) {
		errs = append(errs, v.Stop())
	}
	return errors.Join(errs...)
}

// publishOrders publishes n orders at this rate per second, or orders without end if
// n is 0. It stops early when ctx is cancelled.
func (s *shop) publishOrders(ctx context.Context, n int, rate float64, notices chan<- string) {
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
		s.publishOrder(ctx, &Order{ID: s.books.open(number), Number: number}, notices)
	}
}

// publishOrder publishes one order. If that fails, it tries again every second until
// ctx is cancelled.
func (s *shop) publishOrder(ctx context.Context, o *Order, notices chan<- string) {
	for {
		err := s.created.Publish(ctx, o, messageID("order-"+o.ID))
		if err == nil {
			s.books.published(o.ID)
			return
		}
		tell(notices, fmt.Sprintf("Order %d was not published, trying again: %v", o.Number, err))
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return // not counted as published, so it cannot be missing
		}
	}
}

// messageID is [jsbroker.MessageID] as an option of go-micro's client. A message that
// is published twice with the same id is stored once.
func messageID(id string) client.PublishOption {
	var o broker.PublishOptions
	jsbroker.MessageID(id)(&o)
	return client.PublishContext(o.Context)
}

// payments is the service that takes the money for an order.
type payments struct {
	taken micro.Event
	tried sync.Map // ids of orders whose payment has failed once
}

// take is all the code that a go-micro user writes. It knows neither the broker nor
// tracing. The context holds the headers of the message, so a message published with
// it belongs to the same trace.
func (p *payments) take(ctx context.Context, o *Order) error {
	work(o)
	if o.paymentFails() {
		if _, again := p.tried.LoadOrStore(o.ID, true); !again {
			return errors.New("card service timed out")
		}
	}
	return p.taken.Publish(ctx, o, messageID("payment-"+o.ID))
}

// shipping is the service that sends the goods.
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

// orderDesk is the part of the orders service that learns how its orders ended.
type orderDesk struct {
	books *ledger
}

// shipped is a handler of the broker's own Subscribe. It receives the event, and the
// broker recovers its panics. With a subscriber of go-micro's server, go-micro
// recovers a panic itself, and the broker only sees an error.
func (d *orderDesk) shipped(e broker.Event) error {
	var o Order
	if err := json.Unmarshal(e.Message().Body, &o); err != nil {
		return jsbroker.Discard(err) // no retry can help
	}
	if o.panics() && jsbroker.NumDelivered(e) == 1 {
		panic("the order desk has a bug")
	}
	d.books.shipped(o.ID)
	return nil
}

// dead handles dead letters. Their headers say why they were given up.
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

// plainReason extracts the text of a handler's error from the JSON in which
// go-micro's server wraps it.
func plainReason(text string) string {
	return strings.TrimPrefix(microerrors.Parse(text).Detail, "subscriber error: ")
}

// work stands in for the real work of a handler.
func work(o *Order) { time.Sleep(time.Duration(1+o.Number%4) * time.Millisecond) }

// demoHooks returns the demo's own hooks for each service. They report changes of the
// connection, and give up if a Subscribe fails: go-micro would only log that, and the
// demo would wait for ever.
func demoHooks(notices chan<- string, giveUp context.CancelCauseFunc) func(string) jsbroker.Hooks {
	return func(service string) jsbroker.Hooks {
		return jsbroker.Hooks{
			SubscribeFailed: func(_ context.Context, e jsbroker.SubscribeFailed) { giveUp(e.Err) },
			ConnectionChanged: func(_ context.Context, e jsbroker.ConnectionChanged) {
				switch e.State {
				case jsbroker.StateDisconnected:
					tell(notices, fmt.Sprintf("%s: connection to the server lost", service))
				case jsbroker.StateReconnected:
					tell(notices, fmt.Sprintf("%s: reconnected to %s", service, e.URL))
				}
			},
		}
	}
}

// tell sends a notice, or drops it if the channel is full: hooks must not block.
func tell(notices chan<- string, text string) {
	select {
	case notices <- text:
	default:
	}
}
