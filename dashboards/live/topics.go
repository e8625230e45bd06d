package live

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// topics counts what is published. Those that are known are found without a lock.
type topics struct {
	known atomic.Pointer[map[string]*topic] // never changed: add puts another one in its place
	rest  *topic                            // what is published to further topics
	mu    sync.Mutex                        // of whoever adds one
}

// topic is what was published to one topic.
type topic struct {
	name        string
	outstanding atomic.Int64
	published   atomic.Int64
	bytes       atomic.Int64
	failures    atomic.Int64

	mu     sync.Mutex
	reason string
	err    string
	errAt  time.Time
}

// otherTopics is no topic that can be published to: it has a blank.
const otherTopics = "(other topics)"

func newTopics() *topics {
	t := &topics{rest: &topic{name: otherTopics}}
	t.known.Store(new(map[string]*topic))
	return t
}

// get returns the topic, or the rest for one too many.
func (t *topics) get(name string) *topic {
	known := *t.known.Load()
	if one := known[name]; one != nil {
		return one
	}
	if len(known) >= maxTopics || len(name) > maxText {
		return t.rest
	}
	return t.add(name)
}

func (t *topics) add(name string) *topic {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := *t.known.Load()
	if one := known[name]; one != nil {
		return one
	}
	if len(known) >= maxTopics {
		return t.rest
	}
	more := maps.Clone(known)
	if more == nil {
		more = map[string]*topic{}
	}
	one := &topic{name: strings.Clone(name)}
	more[one.name] = one
	t.known.Store(&more)
	return one
}

func (t *topic) failed(reason string, err error) {
	message := text(err)
	t.failures.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reason, t.err, t.errAt = reason, message, time.Now()
}
