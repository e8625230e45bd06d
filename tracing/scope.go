package tracing

import (
	"context"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"
)

// stage says which operation a scope belongs to.
type stage uint8

const (
	publishing stage = iota
	subscribed
	handling
)

// scope is the context of one operation and what its later hooks need to know.
// It is found under the instance that made it: the span in the context may be
// anybody's by then, a second instance's or one that the handler's middleware
// started, and only our own is ours to end.
//
// It is a context itself, rather than a value in one, to save two allocations
// for every message.
type scope struct {
	context.Context
	owner *instance
	stage stage
	span  trace.Span // nil while subscribed

	panicked bool // the exception is recorded already; handling only

	process atomic.Pointer[processOperation] // not while publishing
}

// Value returns the scope itself for its owner.
func (s *scope) Value(key any) any {
	if owner, ok := key.(*instance); ok && owner == s.owner {
		return s
	}
	return s.Context.Value(key)
}

// scopeOf returns the innermost scope of this instance if it is at the stage
// asked for. Looking further would find the wrong one: a handler's context may
// be what another subscription, or a publish, began with.
func (i *instance) scopeOf(ctx context.Context, at stage) *scope {
	if s, ok := ctx.Value(i).(*scope); ok && s.stage == at {
		return s
	}
	return nil
}
