package tracing

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	jsbroker "go-micro-jetstream/broker"
)

// servers knows the client name of each broker of the hooks, and the server that it is
// connected to, or was connected to last. The events of a message do not say which
// broker they come from. So each is known only while it is the same for all brokers.
//
// The zero value is ready. All methods are safe for concurrent use.
type servers struct {
	mu     sync.Mutex
	urls   map[string]string                    // by BrokerID
	names  map[string]string                    // of clients, by BrokerID
	common atomic.Pointer[[]attribute.KeyValue] // of the one server and client, or nil
}

func (s *servers) connectionChanged(_ context.Context, e jsbroker.ConnectionChanged) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.State {
	case jsbroker.StateConnected, jsbroker.StateReconnected:
		if s.urls == nil {
			s.urls, s.names = make(map[string]string), make(map[string]string)
		}
		s.urls[e.BrokerID], s.names[e.BrokerID] = e.URL, e.ClientName
	case jsbroker.StateClosed:
		delete(s.urls, e.BrokerID)
		delete(s.names, e.BrokerID)
	default:
		return // the last server stays: messages under way were sent to it
	}
	attrs := append(commonAddress(s.urls), commonClient(s.names)...)
	s.common.Store(&attrs)
}

// attributes returns the attributes of the server and the client, as far as they are
// known.
func (s *servers) attributes() []attribute.KeyValue {
	if attrs := s.common.Load(); attrs != nil {
		return *attrs
	}
	return nil
}

// commonAddress returns the attributes of the server if all urls are the same, else
// nil.
func commonAddress(urls map[string]string) []attribute.KeyValue {
	u, err := url.Parse(onlyValue(urls))
	if err != nil || u.Hostname() == "" {
		return nil
	}
	attrs := []attribute.KeyValue{semconv.ServerAddress(clean(u.Hostname()))}
	if port, err := strconv.Atoi(u.Port()); err == nil {
		attrs = append(attrs, semconv.ServerPort(port))
	}
	return attrs
}

// commonClient returns the attribute of the client if all names are the same, else nil.
func commonClient(names map[string]string) []attribute.KeyValue {
	name := onlyValue(names)
	if name == "" {
		return nil
	}
	return []attribute.KeyValue{semconv.MessagingClientID(clean(name))}
}

// onlyValue returns the value that all keys have, or nothing.
func onlyValue(values map[string]string) string {
	distinct := slices.Compact(slices.Sorted(maps.Values(values)))
	if len(distinct) != 1 {
		return ""
	}
	return distinct[0]
}
