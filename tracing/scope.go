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

// scope is the context of one operation, with what the later hooks of the operation
// need. They find it by the instance that made it. The span in their context would
// not do: it may belong to another instance or to the handler's middleware, and the
// hooks must end only their own.
//
// scope is itself a context, rather than a value in one, which saves two allocations
// per message.
type scope struct {
	context.Context
	owner *instance
	stage stage
	span  trace.Span // nil while subscribed

	// panicked says that the exception of the handler has been recorded. The
	// handler's goroutine owns it.
	panicked bool
	// process is the operation of the subscription. It is nil while publishing.
	process atomic.Pointer[processOperation]
}

// Value returns the scope itself for its owner.
func (s *scope) Value(key any) any {
	if owner, ok := key.(*instance); ok && owner == s.owner {
		return s
	}
	return s.Context.Value(key)
}

// scopeOf returns the innermost scope of the instance in ctx, or nil if that one is
// at another stage. A scope further out belongs to another operation: a handler may
// subscribe or publish with its own context.
func (i *instance) scopeOf(ctx context.Context, at stage) *scope {
	if s, ok := ctx.Value(i).(*scope); ok && s.stage == at {
		return s
	}
	return nil
}
