package metrics

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

// exemplarInterval is how often a bucket takes an exemplar. It keeps the latest
// only, and a scrape sees one per bucket, so that more would cost some
// microseconds per message and be overwritten unseen.
const exemplarInterval = 100 * time.Millisecond

// histogram is a child of a histogram vector.
type histogram struct {
	observer prometheus.Observer
	bounds   []float64
	taken    []atomic.Int64 // by bucket: when it took its latest exemplar, in ns
}

// histogramVec is a histogram vector with its classic bounds.
type histogramVec struct {
	*prometheus.HistogramVec
	bounds []float64
}

func (v histogramVec) child(labels ...string) *histogram {
	return &histogram{
		observer: v.WithLabelValues(labels...),
		bounds:   v.bounds,
		taken:    make([]atomic.Int64, len(v.bounds)+1),
	}
}

// observe counts a value, with the trace of the context as its exemplar if it
// is one that was kept. It allocates only if it takes one.
func (h *histogram) observe(ctx context.Context, v float64) {
	if sc := trace.SpanContextFromContext(ctx); sc.IsSampled() && sc.IsValid() && h.due(v) {
		if eo, ok := h.observer.(prometheus.ExemplarObserver); ok {
			eo.ObserveWithExemplar(v, prometheus.Labels{"trace_id": sc.TraceID().String()})
			return
		}
	}
	h.observer.Observe(v)
}

// due reports whether the value's bucket should take an exemplar.
func (h *histogram) due(v float64) bool {
	bucket, _ := slices.BinarySearch(h.bounds, v)
	now := time.Now().UnixNano()
	last := h.taken[bucket].Load()
	return now-last >= int64(exemplarInterval) && h.taken[bucket].CompareAndSwap(last, now)
}
