package metrics

import "sync"

// topicOther is the label of all topics beyond the limit of a guard.
const topicOther = "other"

// guard keeps one value for each of a limited number of topics. Topics can be made
// up by callers of the service, and each label value takes memory here and in
// Prometheus. The zero value is ready; get is safe for concurrent use.
type guard[V any] struct {
	mu     sync.RWMutex
	topics map[string]V
	other  *V // the shared value of all further topics; nil until needed
}

// get returns the value of a topic. If there is none, it calls build with the
// topic's label. The empty topic, and every new topic once there are limit topics,
// share the value of topicOther.
//
// The limit is an argument because hooks with different limits may share a guard.
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
	if g.isOther(topic, limit) {
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

// lookup returns the value that get should return, if it exists. The caller holds
// g.mu.
func (g *guard[V]) lookup(topic string, limit int) (v V, ok bool) {
	if v, ok = g.topics[topic]; ok {
		return v, true
	}
	if g.isOther(topic, limit) && g.other != nil {
		return *g.other, true
	}
	return v, false
}

// isOther reports whether a topic without a value shares that of topicOther. The
// caller holds g.mu.
func (g *guard[V]) isOther(topic string, limit int) bool {
	return topic == "" || len(g.topics) >= limit
}
