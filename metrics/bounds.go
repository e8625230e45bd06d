package metrics

import "slices"

// bounds are the classic buckets of the histograms.
type bounds struct{ publish, handler, lag, endToEnd []float64 }

// shape says how many classic buckets there are.
type shape int

const (
	allBuckets shape = iota
	fewBuckets       // of [WithFewerBuckets]
	noBuckets        // of [WithNativeHistogramsOnly]
)

// fewHandlerBuckets and fewLagBuckets tell orders of magnitude apart. The second ones
// have every bound that the rules and dashboards name.
var (
	fewHandlerBuckets = []float64{.005, .05, .25, 1, 5, 30, 300}
	fewLagBuckets     = []float64{.1, .5, 1, 5, 30, 60, 300, 3600, 24 * 3600}
)

// newBounds returns the bounds of a shape. Where own is not nil, handlers and publishes
// have that one.
func newBounds(s shape, own []float64) bounds {
	var b bounds
	switch s {
	case allBuckets:
		b = bounds{publishBuckets, handlerBuckets, lagBuckets, endToEndBuckets}
	case fewBuckets:
		b = bounds{fewHandlerBuckets[:slices.Index(fewHandlerBuckets, 30)+1], fewHandlerBuckets, fewLagBuckets, fewLagBuckets}
	case noBuckets:
	}
	if own != nil {
		b.publish, b.handler = own, own
	}
	return b
}

func (b bounds) equal(other bounds) bool {
	return slices.Equal(b.publish, other.publish) && slices.Equal(b.handler, other.handler) && slices.Equal(b.lag, other.lag) && slices.Equal(b.endToEnd, other.endToEnd)
}
