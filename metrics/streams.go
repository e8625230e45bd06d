package metrics

import (
	"context"
	"slices"
	"time"
)

const (
	// infoTimeout is how long the server may take for an answer that it has at hand. For a
	// stream without servers it waits half a second before it says so.
	infoTimeout = 2 * time.Second
	// listTimeout is for a list of consumers. The server waits 4 seconds for those that do
	// not answer (jsClusteredConsumerListRequest in server/jetstream_cluster.go).
	listTimeout = 5 * time.Second
	// briefTime is how long a stream may take that has answered in the last round, or is
	// new. Each that does not halves that for the others, down to leastTime: whoever is slow
	// is asked once more when all others have answered.
	briefTime = 500 * time.Millisecond
	leastTime = 100 * time.Millisecond
	// slowTime bounds the time after which no more of those that are slow are asked, so that
	// the next round for the others is not late. It is half of the interval if that is less.
	// Those that are left are the first in the next round.
	slowTime = 10 * time.Second
)

// streams asks for the streams: first for those that answer, so that they do not wait for
// those that do not.
func (q *inquiry) streams(ctx context.Context, names []string) {
	isSlow := func(name string) bool { return slices.Contains(q.before.slow, name) }
	var slow []string
	for _, name := range q.before.slow {
		if slices.Contains(names, name) {
			slow = append(slow, name)
		}
	}
	patience := briefTime
	for i, name := range names {
		if isSlow(name) {
			continue
		}
		q.brief = true
		limit := min(patience, share(ctx, len(names)-i))
		st, how := q.stream(ctx, name, limit, limit)
		q.brief = false
		if how == silent {
			slow = append(slow, name)
			patience = max(patience/2, leastTime)
			continue
		}
		q.add(st)
	}
	if len(slow) > 0 && len(slow) < len(names) {
		q.server.show(q.soFar(slow))
	}
	q.slowStreams(ctx, slow)
}

// slowStreams asks for the streams that do not answer as fast as the others.
func (q *inquiry) slowStreams(ctx context.Context, slow []string) {
	until := time.Now().Add(min(slowTime, q.server.interval/2))
	var still []string
	for i, name := range slow {
		if time.Now().After(until) || ctx.Err() != nil {
			q.state.complete = false
			for _, later := range slow[i:] {
				q.add(q.former(later))
			}
			still = append(slices.Clone(slow[i:]), still...)
			break
		}
		begin := time.Now()
		st, how := q.stream(ctx, name, infoTimeout, listTimeout)
		q.add(st)
		if how == silent || how == failed || how != gone && time.Since(begin) > briefTime {
			still = append(still, name)
		}
	}
	q.state.slow = still
}

// add takes in a stream, with as many of its consumers as may have series.
func (q *inquiry) add(st *streamState) {
	if st == nil {
		return
	}
	st.consumers = st.consumers[:min(len(st.consumers), q.room)]
	q.room -= len(st.consumers)
	q.state.streams = append(q.state.streams, *st)
}

// soFar returns the state of the streams that have answered, beside what is known of the
// slow ones.
func (q *inquiry) soFar(slow []string) serverState {
	state := q.state
	state.complete = state.complete && q.before.complete
	state.streams = slices.Clone(state.streams)
	for _, name := range slow {
		state.streams = append(state.streams, *q.former(name))
	}
	return state
}

// share is the part of the remaining time that one of so many questions may take.
func share(ctx context.Context, questions int) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return infoTimeout
	}
	return time.Until(deadline) / time.Duration(questions)
}
