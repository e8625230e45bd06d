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

// tracedBy returns the trace that values observed in ctx may be examples of, if it
// is one that was kept. It is asked once per event, for all of the event's values.
func tracedBy(ctx context.Context) (traceID trace.TraceID, sampled bool) {
	sc := trace.SpanContextFromContext(ctx)
	return sc.TraceID(), sc.IsSampled() && sc.IsValid()
}

// observe counts a duration, with the trace as its exemplar if there is one. It
// allocates only if it takes one.
func (h *histogram) observe(d time.Duration, traceID trace.TraceID, sampled bool) {
	v := float64(d) / float64(time.Second) // Duration.Seconds divides integers, twice
	if sampled && h.due(v) {
		if eo, ok := h.observer.(prometheus.ExemplarObserver); ok {
			eo.ObserveWithExemplar(v, prometheus.Labels{"trace_id": traceID.String()})
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
