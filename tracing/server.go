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

// servers knows where the brokers that the hooks serve are connected, or were last.
// The events of messages do not say whose they are: the address is told while all are
// on one server, and a wrong one never.
//
// The zero value is ready; all methods are safe for concurrent use.
type servers struct {
	mu     sync.Mutex
	urls   map[string]string // by BrokerID
	common atomic.Pointer[[]attribute.KeyValue]
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
		return // what is lost was on its way to that server
	}
	s.common.Store(commonAddress(s.urls))
}

// attributes returns what an event's span says of its server, if that is known.
func (s *servers) attributes() []attribute.KeyValue {
	if attrs := s.common.Load(); attrs != nil {
		return *attrs
	}
	return nil
}

// commonAddress returns the attributes of the one server in urls, or nil.
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
