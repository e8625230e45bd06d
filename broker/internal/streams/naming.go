package streams

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/goroutine"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/wire"
)

const (
	// nameTimeout is how long the user's function for stream names may take.
	nameTimeout = link.LookUpTimeout
	// nameGrace is how long it may take while nobody else can look for a stream. It has
	// nothing to wait for.
	nameGrace = 10 * time.Millisecond
	// As many calls of the function may be under way for one topic, and for all.
	mostNamingTopic = 5
	mostNaming      = 30
)

// naming calls the user's function for stream names. Those who want the name for one topic
// at a time share a call, so that a function that hangs costs few goroutines. It is safe
// for concurrent use.
type naming struct {
	room   chan struct{} // of the calls under way
	mu     sync.Mutex
	topics map[string]*namingTopic // of the calls under way
}

// namingTopic has the calls for one topic. It is guarded by naming.mu.
type namingTopic struct {
	latest   *namingCall
	underWay int
}

// namingCall is one call. What it has returned may be read when over is closed.
type namingCall struct {
	began time.Time
	over  chan struct{}
	name  string
	fault error
}

func newNaming() naming {
	return naming{room: make(chan struct{}, mostNaming), topics: map[string]*namingTopic{}}
}

// isNaming reports whether the user's function is asked for the name of the topic's stream
// now.
func (ss *Streams) isNaming(rules *asset.Rules, topic string) bool {
	if !rules.WantsName() {
		return false
	}
	c, _ := ss.naming.join(topic, false)
	return c != nil
}

// named returns rules that know the name of the topic's stream, or why there is none. The
// caller must not hold ss.ensuring: others look for streams while the function hangs.
func (ss *Streams) named(ctx context.Context, rules *asset.Rules, topic string) *asset.Rules {
	if !rules.WantsName() {
		return rules
	}
	c, err := ss.naming.begin(ctx, topic, rules.StreamName)
	if err == nil {
		err = c.wait(ctx)
	}
	if err != nil {
		return rules.Named("", fmt.Errorf("%w: the function of WithStreamName %w for the topic %q", fault.ErrInvalidConfig, err, wire.Shorten(topic)))
	}
	return rules.Named(c.name, nil)
}

// namedSoon is named for a caller that holds ss.ensuring. It returns nil if the function
// does not return at once.
func (ss *Streams) namedSoon(ctx context.Context, rules *asset.Rules, topic string) *asset.Rules {
	if !rules.WantsName() {
		return rules
	}
	ctx, cancel := context.WithTimeout(ctx, nameGrace)
	defer cancel()
	c, err := ss.naming.begin(ctx, topic, rules.StreamName)
	if err != nil || c.waitUntil(ctx, c.began.Add(nameGrace)) != nil {
		return nil
	}
	return rules.Named(c.name, nil)
}

// begin returns the call under way for the topic, or begins one. It waits for room as long
// as a call may take.
func (n *naming) begin(ctx context.Context, topic string, function func(string) string) (*namingCall, error) {
	if c, _ := n.join(topic, false); c != nil {
		return c, nil
	}
	timer := time.NewTimer(nameTimeout)
	defer timer.Stop()
	select {
	case n.room <- struct{}{}:
	case <-timer.C:
		return nil, fmt.Errorf("is not called: so many earlier calls have not returned: %w", goroutine.ErrHangs)
	case <-ctx.Done():
		return nil, fmt.Errorf("is not called: so many earlier calls have not returned: %w", ctx.Err())
	}
	c, fresh := n.join(topic, true)
	if !fresh {
		<-n.room
		return c, nil
	}
	goroutine.Begin(func() (string, error) { return function(topic), nil }, func(name string, _, fault error) {
		c.name, c.fault = name, fault
		close(c.over)
		n.leave(topic)
		<-n.room
	})
	return c, nil
}

// join returns the call under way for the topic. If there is none, or that hangs and there
// may be another one, it returns nil, or if wanted a fresh one.
func (n *naming) join(topic string, add bool) (c *namingCall, fresh bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.topics[topic]
	if t != nil && !t.latest.ended() && (t.underWay >= mostNamingTopic || time.Since(t.latest.began) < nameTimeout) {
		return t.latest, false
	}
	if !add {
		return nil, false
	}
	if t == nil {
		t = &namingTopic{}
		n.topics[topic] = t
	}
	t.latest = &namingCall{began: time.Now(), over: make(chan struct{})}
	t.underWay++
	return t.latest, true
}

// leave is for a call that has returned.
func (n *naming) leave(topic string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.topics[topic]
	if t.underWay--; t.underWay == 0 {
		delete(n.topics, topic)
	}
}

func (c *namingCall) ended() bool {
	select {
	case <-c.over:
		return true
	default:
		return false
	}
}

// wait waits for the call, as long as it may take.
func (c *namingCall) wait(ctx context.Context) error {
	return c.waitUntil(ctx, c.began.Add(nameTimeout))
}

// waitUntil returns what the function has done instead of returning a name.
func (c *namingCall) waitUntil(ctx context.Context, until time.Time) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-c.over:
		return c.fault
	case <-timer.C:
	case <-ctx.Done():
	}
	switch {
	case c.ended():
		return c.fault
	case ctx.Err() != nil:
		return fmt.Errorf("%w (%w)", goroutine.ErrHangs, ctx.Err())
	}
	return goroutine.ErrHangs
}
