package tracing

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
)

// Carrier is what propagators get for a header of which they have announced names.
func Carrier(header map[string]string, names ...string) (c propagation.TextMapCarrier, release func()) {
	f := fieldsOf(header, names)
	return f, f.release
}

// Replace lets a propagator write its names anew.
func Replace(ctx context.Context, p propagation.TextMapPropagator, header map[string]string) {
	f := fieldsOf(header, p.Fields())
	defer f.release()
	f.replace(ctx, p)
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
