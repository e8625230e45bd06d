package tracing

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
)

// Carrier returns what a propagator gets for a header, and how to release it.
func Carrier(p propagation.TextMapPropagator, header map[string]string) (c propagation.TextMapCarrier, release func()) {
	own := newCarrier(header, headerNames(p))
	return own, own.release
}

// Replace lets a propagator write its headers anew.
func Replace(ctx context.Context, p propagation.TextMapPropagator, header map[string]string) {
	c := newCarrier(header, headerNames(p))
	defer c.release()
	c.replace(ctx, p)
}

// MaxCachedTopics is the bound of a PublishCache.
const MaxCachedTopics = maxCachedTopics

// PublishCache lets a test fill the cache.
type PublishCache struct{ c publishCache }

// Get looks up a topic and makes its operation if there is none.
func (p *PublishCache) Get(topic string) { p.c.get(topic) }

// Len counts what the cache holds.
func (p *PublishCache) Len() (n int) {
	if g := p.c.generation.Load(); g != nil {
		g.operations.Range(func(any, any) bool { n++; return true })
	}
	return n
}
