package link

import (
	"context"
	"strings"
	"sync"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// calls are the requests to JetStream's API that wait for their answers. The zero value
// is ready.
type calls struct {
	api      api   // where they go
	reach    reach // whether anybody is there
	mu       sync.Mutex
	underWay map[*call]struct{}
}

// call is one request.
type call struct {
	subject string // as far as known
	cancel  context.CancelCauseFunc
}

// sentTo reports whether the call may be the request with that subject.
func (r *call) sentTo(subject string) bool {
	rest, ok := strings.CutPrefix(subject, r.subject)
	return ok && (rest == "" || rest[0] == '.')
}

// begin registers a request. The function that it returns ends that.
func (c *calls) begin(subject string, cancel context.CancelCauseFunc) (end func()) {
	r := &call{subject: subject, cancel: cancel}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.underWay == nil {
		c.underWay = make(map[*call]struct{})
	}
	c.underWay[r] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.underWay, r)
	}
}

// end ends all requests: no answer can arrive.
func (c *calls) end(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.underWay {
		r.cancel(why)
	}
}

// refuse ends the requests that a permission violation is about. These are all if it is
// about the inbox.
func (c *calls) refuse(violation error, aboutInbox bool) {
	subject, _ := wire.RefusedSubject(violation, wire.PublishViolation)
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.underWay {
		if aboutInbox || r.sentTo(subject) {
			r.cancel(fault.Permission(violation))
		}
	}
}
