package metrics

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

// exemplarInterval is the shortest time between two exemplars of a bucket. A bucket
// keeps only its latest exemplar, so more of them would cost microseconds per
// message and be overwritten before a scrape.
const exemplarInterval = 100 * time.Millisecond

// histogram is one series of a histogramVec.
type histogram struct {
	observer prometheus.Observer
	bounds   []float64
	taken    []atomic.Int64 // for each bucket, when it took its latest exemplar, in Unix nanoseconds
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

// sampledTrace returns the trace of ctx and whether it is sampled. Only a sampled
// trace makes an exemplar, because nobody could look up another one. A hook asks
// once per event and uses the answer for all values of the event.
func sampledTrace(ctx context.Context) (id trace.TraceID, sampled bool) {
	sc := trace.SpanContextFromContext(ctx)
	return sc.TraceID(), sc.IsSampled() && sc.IsValid()
}

// observe records a duration. If the trace is sampled and an exemplar is due, the
// trace becomes the exemplar. Otherwise observe allocates nothing.
func (h *histogram) observe(d time.Duration, traceID trace.TraceID, sampled bool) {
	v := float64(d) / float64(time.Second) // faster than Duration.Seconds, which divides integers twice
	if sampled && h.exemplarDue(v) {
		if eo, ok := h.observer.(prometheus.ExemplarObserver); ok {
			eo.ObserveWithExemplar(v, prometheus.Labels{"trace_id": traceID.String()})
			return
		}
	}
	h.observer.Observe(v)
}

// exemplarDue reports whether the bucket of v should take an exemplar now. It
// returns true at most once per exemplarInterval and bucket.
func (h *histogram) exemplarDue(v float64) bool {
	bucket, _ := slices.BinarySearch(h.bounds, v)
	now := time.Now().UnixNano()
	last := h.taken[bucket].Load()
	return now-last >= int64(exemplarInterval) && h.taken[bucket].CompareAndSwap(last, now)
}
