package tracing

// MaxCachedTopics is the bound of a PublishCache.
const MaxCachedTopics = maxCachedTopics

// PublishCache lets a test fill the cache.
type PublishCache struct{ c publishCache }

// Get looks up a topic and makes its operation if there is none.
func (p *PublishCache) Get(topic string) { p.c.get(topic) }

// Len counts what the cache holds.
func (p *PublishCache) Len() (n int) {
	if g := p.c.generation.Load(); g != nil {
		g.operations.Range(func(any, any) bool { n++; return true })
	}
	return n
}
