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

// servers knows the server that each broker of the hooks is connected to, or was
// connected to last. The events of a message do not say which broker they come from.
// So the address is known only while all brokers are on one server.
//
// The zero value is ready. All methods are safe for concurrent use.
type servers struct {
	mu     sync.Mutex
	urls   map[string]string                    // by BrokerID
	common atomic.Pointer[[]attribute.KeyValue] // of the one server, or nil
}

func (s *servers) connectionChanged(_ context.Context, e jsbroker.ConnectionChanged) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.State {
	case jsbroker.StateConnected, jsbroker.StateReconnected:
		if s.urls == nil {
			s.urls = make(map[string]string)
		}
		s.urls[e.BrokerID] = e.URL
	case jsbroker.StateClosed:
		delete(s.urls, e.BrokerID)
	default:
		return // the last server stays: messages under way were sent to it
	}
	s.common.Store(commonAddress(s.urls))
}

// attributes returns the attributes of the server, or nil if it is not known.
func (s *servers) attributes() []attribute.KeyValue {
	if attrs := s.common.Load(); attrs != nil {
		return *attrs
	}
	return nil
}

// commonAddress returns the attributes of the server if all urls are the same, else
// nil.
func commonAddress(urls map[string]string) *[]attribute.KeyValue {
	distinct := slices.Compact(slices.Sorted(maps.Values(urls)))
	if len(distinct) != 1 {
		return nil
	}
	u, err := url.Parse(distinct[0])
	if err != nil || u.Hostname() == "" {
		return nil
	}
	attrs := []attribute.KeyValue{semconv.ServerAddress(clean(u.Hostname()))}
	if port, err := strconv.Atoi(u.Port()); err == nil {
		attrs = append(attrs, semconv.ServerPort(port))
	}
	return &attrs
}
