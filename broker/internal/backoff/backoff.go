// Package backoff says how long to wait after a failure before the next try.
package backoff

import (
	"math/rand/v2"
	"time"
)

// The shortest and the longest [Delay].
const (
	Min = time.Second
	Max = 30 * time.Second
)

// Delay is the pause after the n-th failure in a row, counted from 1:
// 1s, 2s, 4s, 8s, 16s, 30s, 30s, ...
func Delay(n uint64) time.Duration {
	switch {
	case n < 1:
		return Min
	case n > 5:
		return Max
	}
	return Min << (n - 1)
}

// Redelivery is the delay before a message that has failed n times is delivered
// again. A consumer with a BackOff schedule gets its entry. Otherwise it is
// [Delay] plus up to a tenth, so that messages that failed together do not come
// back together.
func Redelivery(n uint64, schedule []time.Duration) time.Duration {
	if len(schedule) > 0 {
		return Entry(n, schedule)
	}
	d := Delay(n)
	return d + rand.N(d/10)
}

// Entry returns the entry of a consumer's BackOff schedule for the n-th
// delivery, counted from 1. The last entry stands for all later deliveries. The
// schedule must not be empty.
func Entry(n uint64, schedule []time.Duration) time.Duration {
	return schedule[min(max(n, 1), uint64(len(schedule)))-1]
}
