package broker

import (
	"context"
	"testing"

	"go-micro.dev/v5/logger"
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
		d := newDispatcher(hooks, logger.DefaultLogger)
		header := map[string]string{"k": "v"}
		if n := testing.AllocsPerRun(1000, func() { messageHooks(d, header) }); n != 0 {
			t.Errorf("%s: %v allocations per message", name, n)
		}
	}
}

// messageHooks is what the life of one message runs.
func messageHooks(d *dispatcher, header map[string]string) {
	ctx := start(d, d.publishStart, context.Background(), PublishStart{Topic: "t", Header: header})
	emit(d, d.published, ctx, Published{Topic: "t"})
	ctx = start(d, d.handleStart, context.Background(), HandleStart{Header: header})
	emit(d, d.settled, ctx, Settled{Result: ResultAck})
	emit(d, d.handled, ctx, Handled{Result: ResultAck})
}

func BenchmarkHooks(b *testing.B) {
	one := Hooks{
		PublishStart: func(ctx context.Context, _ PublishStart) context.Context { return ctx },
		Published:    func(context.Context, Published) {},
		HandleStart:  func(ctx context.Context, _ HandleStart) context.Context { return ctx },
		Settled:      func(context.Context, Settled) {},
		Handled:      func(context.Context, Handled) {},
	}
	header := map[string]string{"k": "v"}
	for name, hooks := range map[string][]Hooks{"off": nil, "one": {one}} {
		b.Run(name, func(b *testing.B) {
			d := newDispatcher(hooks, logger.DefaultLogger)
			b.ReportAllocs()
			for b.Loop() {
				messageHooks(d, header)
			}
		})
	}
}
