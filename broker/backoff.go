package broker

import (
	"math/rand/v2"
	"time"
)

const (
	minBackoff = time.Second
	maxBackoff = 30 * time.Second
)

// backoffDelay is the pause after the n-th failure in a row, from 1:
// 1s, 2s, 4s, 8s, 16s, 30s, 30s, ...
func backoffDelay(n uint64) time.Duration {
	if n < 1 {
		return minBackoff
	}
	if n > 5 {
		return maxBackoff
	}
	return minBackoff << (n - 1)
}

// redeliveryDelay is the delay before a message that failed for the n-th time
// is delivered again: the consumer's BackOff if it has one, else as above, with
// up to a tenth added so that what failed together does not return together.
func redeliveryDelay(n uint64, schedule []time.Duration) time.Duration {
	if len(schedule) > 0 {
		return scheduled(n, schedule)
	}
	d := backoffDelay(n)
	return d + rand.N(d/10)
}

// scheduled is a BackOff's entry for the n-th delivery, of which the last stands
// for all later ones.
func scheduled(n uint64, schedule []time.Duration) time.Duration {
	return schedule[min(max(n, 1), uint64(len(schedule)))-1]
}
