package metrics

import "sync"

// guard maps topics that come from outside to what is kept for each, and stops
// when there are too many: each label value is memory, here and in Prometheus,
// and NATS subjects are as many as their publishers care to make up.
type guard[V any] struct {
	mu     sync.RWMutex
	topics map[string]V
	other  *V // what is kept for all the rest; nil until needed
}

// get returns what is kept for the topic, made from its label if it is new.
// With limit topics already there, or with an empty topic, that is the share
// of topicOther.
//
// The limit is the caller's: hooks with different limits can share a guard.
func (g *guard[V]) get(topic string, limit int, build func(label string) V) V {
	g.mu.RLock()
	v, ok := g.lookup(topic, limit)
	g.mu.RUnlock()
	if ok {
		return v
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if v, ok := g.lookup(topic, limit); ok {
		return v
	}
	if g.folds(topic, limit) {
		v := build(topicOther)
		g.other = &v
		return v
	}
	if g.topics == nil {
		g.topics = map[string]V{}
	}
	v = build(label(topic))
	g.topics[topic] = v
	return v
}

func (g *guard[V]) lookup(topic string, limit int) (v V, ok bool) {
	if v, ok = g.topics[topic]; ok {
		return v, true
	}
	if g.folds(topic, limit) && g.other != nil {
		return *g.other, true
	}
	return v, false
}

func (g *guard[V]) folds(topic string, limit int) bool {
	return topic == "" || len(g.topics) >= limit
}
