package broker

import (
	"context"
	"log/slog"
	"testing"
)

func TestHooksDoNotAllocate(t *testing.T) {
	quiet := Hooks{
		PublishStart: func(ctx context.Context, _ PublishStart) context.Context { return ctx },
		Published:    func(context.Context, Published) {},
		HandleStart:  func(ctx context.Context, _ HandleStart) context.Context { return ctx },
		Settled:      func(context.Context, Settled) {},
		Handled:      func(context.Context, Handled) {},
	}
	for name, hooks := range map[string][]Hooks{"off": nil, "one": {quiet}, "three": {quiet, {}, quiet, quiet}} {
		d := newDispatcher(hooks, slog.New(slog.DiscardHandler))
		if n := testing.AllocsPerRun(1000, func() { messageHooks(d) }); n != 0 {
			t.Errorf("%s: %v allocations per message", name, n)
		}
	}
}

var exampleHeader = map[string]string{"k": "v"}

// messageHooks is what the life of one message runs, as in publish.go and
// handle.go: no event is made that nobody listens to.
func messageHooks(d *dispatcher) {
	ctx := context.Background()
	if len(d.publishStart) > 0 || len(d.published) > 0 {
		ctx = start(d.publishStart, ctx, PublishStart{Topic: "t", Header: exampleHeader})
		emit(d.published, ctx, Published{Topic: "t"})
	}
	if len(d.handleStart) > 0 {
		ctx = start(d.handleStart, ctx, HandleStart{Header: exampleHeader})
	}
	if len(d.settled) > 0 {
		emit(d.settled, ctx, Settled{Result: ResultAck})
	}
	if len(d.handled) > 0 {
		emit(d.handled, ctx, Handled{Result: ResultAck})
	}
}

func BenchmarkHooks(b *testing.B) {
	one := Hooks{
		PublishStart: func(ctx context.Context, _ PublishStart) context.Context { return ctx },
		Published:    func(context.Context, Published) {},
		HandleStart:  func(ctx context.Context, _ HandleStart) context.Context { return ctx },
		Settled:      func(context.Context, Settled) {},
		Handled:      func(context.Context, Handled) {},
	}
	for name, hooks := range map[string][]Hooks{"off": nil, "one": {one}} {
		b.Run(name, func(b *testing.B) {
			d := newDispatcher(hooks, slog.New(slog.DiscardHandler))
			b.ReportAllocs()
			for b.Loop() {
				messageHooks(d)
			}
		})
	}
}
