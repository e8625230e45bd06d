package broker_test

import (
	"context"
	"errors"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

type ctxKey string

// journal notes what its hooks see.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) note(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

// hooks returns hooks that note starts and ends under a name, and add the name
// to the context.
func (j *journal) hooks(name string) jsbroker.Hooks {
	enter := func(ctx context.Context, what string) context.Context {
		j.note(what + " " + name)
		seen, _ := ctx.Value(ctxKey(what)).(string)
		return context.WithValue(ctx, ctxKey(what), seen+name)
	}
	leave := func(ctx context.Context, what string) {
		seen, _ := ctx.Value(ctxKey(what)).(string)
		j.note("end " + what + " " + name + " saw " + seen)
	}
	return jsbroker.Hooks{
		PublishStart: func(ctx context.Context, _ jsbroker.PublishStart) context.Context { return enter(ctx, "publish") },
		Published:    func(ctx context.Context, _ jsbroker.Published) { leave(ctx, "publish") },
		SubscriptionStart: func(ctx context.Context, _ jsbroker.SubscriptionStart) context.Context {
			return enter(ctx, "subscription")
		},
		SubscriptionEnd: func(ctx context.Context, _ jsbroker.SubscriptionEnd) { leave(ctx, "subscription") },
		HandleStart:     func(ctx context.Context, _ jsbroker.HandleStart) context.Context { return enter(ctx, "handle") },
		Handled:         func(ctx context.Context, _ jsbroker.Handled) { leave(ctx, "handle") },
	}
}

func TestStartsRunInOrderAndEndsInReverse(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]func(){
		"return": func() {},
		"panic":  func() { panic("boom") },
		"Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var j journal
			ended, onEnd := hookChan[jsbroker.SubscriptionEnd]()
			b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{SubscriptionEnd: onEnd}, j.hooks("A")), jsbroker.WithHooks(j.hooks("B")))
			inside := make(chan [3]any, 10)
			sub := subscribe(t, b, "orders", func(e broker.Event) error {
				ctx := jsbroker.EventContext(e)
				inside <- [3]any{ctx.Value(ctxKey("subscription")), ctx.Value(ctxKey("handle")), ctx.Value(ctxKey("caller"))}
				handler()
				return nil
			}, broker.Queue("q"), broker.SubscribeContext(context.WithValue(context.Background(), ctxKey("caller"), "C")))
			publish(t, b, "orders", "1", broker.PublishContext(context.WithValue(context.Background(), ctxKey("publish"), "C")))
			if got := receive(t, inside); got != [3]any{"AB", "AB", "C"} {
				t.Fatalf("the handler's context has %v", got)
			}
			_ = sub.Unsubscribe()
			receive(t, ended)
			want := []string{
				"subscription A", "subscription B",
				"publish A", "publish B", "end publish B saw CAB", "end publish A saw CAB",
				"handle A", "handle B", "end handle B saw AB", "end handle A saw AB",
				"end subscription B saw AB", "end subscription A saw AB",
			}
			got := j.all()
			// Publish and handle run side by side.
			slices.Sort(want)
			sorted := slices.Clone(got)
			slices.Sort(sorted)
			if !slices.Equal(sorted, want) {
				t.Fatalf("got %q", got)
			}
			for _, pair := range [][2]string{
				{"publish A", "publish B"}, {"end publish B saw CAB", "end publish A saw CAB"},
				{"handle A", "handle B"}, {"end handle B saw AB", "end handle A saw AB"},
				{"end handle A saw AB", "end subscription B saw AB"}, {"end subscription B saw AB", "end subscription A saw AB"},
			} {
				if slices.Index(got, pair[0]) > slices.Index(got, pair[1]) {
					t.Errorf("%q comes after %q in %q", pair[0], pair[1], got)
				}
			}
		})
	}
}

func TestPanickingHooksChangeNothing(t *testing.T) {
	t.Parallel()
	log := natstest.NewLog()
	// All fields, also those that are added later.
	var bad jsbroker.Hooks
	v := reflect.ValueOf(&bad).Elem()
	fields := 0
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Func {
			fields++
			f.Set(reflect.MakeFunc(f.Type(), func([]reflect.Value) []reflect.Value { panic("hook " + v.Type().Field(i).Name) }))
		}
	}
	handled, onHandled := hookChan[jsbroker.Handled]()
	panicked, onPanicked := hookChan[jsbroker.Panicked]()
	b := newBroker(t, startServer(t), broker.Logger(log), soon(),
		jsbroker.WithHooks(bad, jsbroker.Hooks{Handled: onHandled, Panicked: onPanicked}, bad))
	h, got := collector()
	sub := subscribe(t, b, "orders", func(e broker.Event) error {
		if jsbroker.NumDelivered(e) == 1 {
			return errors.New("once")
		}
		return h(e)
	}, broker.Queue("q"))
	publish(t, b, "orders", "1")
	receive(t, got)
	if e := receive(t, handled); e.Result != jsbroker.ResultNak || e.Panicked {
		t.Fatalf("handled %+v", e)
	}
	if e := receive(t, handled); e.Result != jsbroker.ResultAck {
		t.Fatalf("handled %+v", e)
	}
	if len(panicked) > 0 {
		t.Fatal("a hook's panic was taken for the handler's")
	}
	if _, err := b.Subscribe("*", h); !errors.Is(err, jsbroker.ErrInvalidTopic) {
		t.Fatal(err)
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if err := b.Disconnect(); err != nil {
		t.Fatal(err)
	}
	lines := log.Text()
	for _, hook := range []string{"PublishStart", "Published", "SubscriptionStart", "SubscriptionEnd", "SubscribeFailed", "Fetched", "ConsumerState", "HandleStart", "Handled", "Settled", "ConnectionChanged"} {
		if !strings.Contains(lines, "hook "+hook+"\n") {
			t.Errorf("the panic of %s was not logged", hook)
		}
	}
	if fields < 17 {
		t.Errorf("only %d hooks found", fields)
	}
}

func TestHooksMayCallTheBroker(t *testing.T) {
	t.Parallel()
	var b broker.Broker
	s := startServer(t)
	h, got := collector()
	handled, onHandled := hookChan[jsbroker.Handled]()
	ended := make(chan struct{})
	var sub broker.Subscriber
	ready := make(chan struct{})
	b = newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{
		Handled: func(ctx context.Context, e jsbroker.Handled) {
			onHandled(ctx, e)
			if e.Topic == "orders" {
				_ = b.Publish("audit", message("handled"))
			}
		},
		Settled: func(context.Context, jsbroker.Settled) {
			<-ready
			_ = sub.Unsubscribe() // on the worker's own goroutine
		},
		SubscriptionEnd: func(context.Context, jsbroker.SubscriptionEnd) { close(ended) },
	}))
	sub = subscribe(t, b, "orders", func(broker.Event) error { return nil }, broker.Queue("q"))
	close(ready)
	publish(t, b, "orders", "1")
	receive(t, handled)
	receive(t, ended)
	subscribe(t, newBroker(t, s), "audit", h, broker.Queue("q"))
	receive(t, got)
}

// Also hooks that are told of messages that are given back, when a subscription ends
// while one is handled and others wait.
func TestHooksOfTheEndMayCallTheBroker(t *testing.T) {
	t.Parallel()
	type calls struct {
		b   broker.Broker
		sub broker.Subscriber
	}
	call := map[string]func(calls) error{
		"Unsubscribe": func(c calls) error { return c.sub.Unsubscribe() },
		"Disconnect":  func(c calls) error { return c.b.Disconnect() },
		"Connect":     func(c calls) error { return c.b.Connect() },
	}
	for _, end := range []string{"Unsubscribe", "Disconnect"} {
		for name, fromHook := range call {
			for _, hook := range []string{"Settled", "Exhausted"} {
				t.Run(end+", "+hook+" calls "+name, func(t *testing.T) {
					t.Parallel()
					var c calls
					results, started, release := make(chan error, 10), make(chan struct{}, 10), make(chan struct{})
					hooks := jsbroker.Hooks{Settled: func(_ context.Context, e jsbroker.Settled) {
						if e.Returned {
							results <- fromHook(c)
						}
					}}
					if hook == "Exhausted" {
						hooks = jsbroker.Hooks{Exhausted: func(context.Context, jsbroker.Exhausted) { results <- fromHook(c) }}
					}
					s := startServer(t)
					_, js := natsConn(t, s)
					c.b = newBroker(t, s, jsbroker.WithHooks(hooks), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{MaxDeliver: 1}))
					const n = 5
					for range n {
						publish(t, c.b, "orders", "x")
					}
					c.sub = subscribe(t, c.b, "orders", func(broker.Event) error {
						started <- struct{}{}
						<-release
						return nil
					}, broker.Queue("q"))
					receive(t, started)
					eventually(t, "all have been sent", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "q").NumAckPending == n })
					ended := make(chan error, 1)
					go func() { ended <- call[end](c) }()
					for range n - 1 {
						if err := receive(t, results); err != nil && (name != "Connect" || end != "Disconnect" || !errors.Is(err, jsbroker.ErrNotConnected)) {
							t.Errorf("%s in the hook: %v", name, err)
						}
					}
					close(release)
					if err := receive(t, ended); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// What is told of an Async publish may disconnect, too.
func TestDisconnectFromAnAsyncPublish(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"Published", "done"} {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			var b broker.Broker
			result := make(chan error, 2)
			disconnect := func(here string) {
				if here == from {
					result <- b.Disconnect()
				}
			}
			b = newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{
				Published: func(context.Context, jsbroker.Published) { disconnect("Published") },
			}))
			if err := b.Publish("orders", message("x"), jsbroker.Async(func(error) { disconnect("done") })); err != nil {
				t.Fatal(err)
			}
			if err := receive(t, result); err != nil {
				t.Error(err)
			}
			if err := b.Disconnect(); err != nil { // waits for the first
				t.Error(err)
			}
		})
	}
}

// There is nothing to wait for yet.
func TestDisconnectFromTheHookOfASubscribe(t *testing.T) {
	t.Parallel()
	var b broker.Broker
	result := make(chan error, 1)
	b = newBroker(t, startServer(t), jsbroker.WithShutdownTimeout(time.Hour), jsbroker.WithHooks(jsbroker.Hooks{
		SubscriptionStart: func(ctx context.Context, _ jsbroker.SubscriptionStart) context.Context {
			result <- b.Disconnect()
			return ctx
		},
	}))
	go func() { _, _ = b.Subscribe("orders", ignore, broker.Queue("q")) }()
	if err := receive(t, result); err != nil {
		t.Error(err)
	}
	if err := b.Disconnect(); err != nil { // waits for the first
		t.Error(err)
	}
}

func TestNilContextOfAStartKeepsTheOld(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{
		PublishStart: func(context.Context, jsbroker.PublishStart) context.Context { return nil },
		HandleStart:  func(context.Context, jsbroker.HandleStart) context.Context { return nil },
		SubscriptionStart: func(context.Context, jsbroker.SubscriptionStart) context.Context {
			return nil
		},
	}))
	h, got := collector()
	subscribe(t, b, "orders", h)
	publish(t, b, "orders", "1")
	receive(t, got)
}

func TestHookErrorIsReportedByConnectAndInit(t *testing.T) {
	t.Parallel()
	cause := errors.New("the registry is taken")
	b := jsbroker.NewBroker(jsbroker.WithHooks(jsbroker.Hooks{Err: cause}))
	if err := b.Connect(); !errors.Is(err, cause) || !errors.Is(err, jsbroker.ErrInvalidConfig) {
		t.Errorf("Connect: %v", err)
	}
	if err := jsbroker.NewBroker().Init(jsbroker.WithHooks(jsbroker.Hooks{Err: cause})); !errors.Is(err, cause) {
		t.Errorf("Init: %v", err)
	}
}

func TestSubscribeFailureIsAnEvent(t *testing.T) {
	t.Parallel()
	failed, onFailed := hookChan[jsbroker.SubscribeFailed]()
	b := newBroker(t, startServer(t), jsbroker.WithHooks(jsbroker.Hooks{SubscribeFailed: onFailed}))
	_, err := b.Subscribe("orders", func(broker.Event) error { return nil }, broker.Queue("a.b"))
	if e := receive(t, failed); e.Reason != "invalid_queue" || !errors.Is(err, jsbroker.ErrInvalidQueue) || e.Err != err { //nolint:errorlint // the very same
		t.Fatalf("event %+v, error %v", e, err)
	}
}

// The core must not drag a metrics or tracing library into programs that use
// neither.
func TestCoreImportsNoTelemetryAndNoTestPackages(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "go-micro-jetstream/broker").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		for _, banned := range []string{"prometheus", "opentelemetry", "nats-server", "testing", "goleak"} {
			if strings.Contains(pkg, banned) && !strings.HasPrefix(pkg, "internal/") {
				t.Errorf("broker depends on %s", pkg)
			}
		}
	}
}
