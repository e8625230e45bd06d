package metrics

import (
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	jsbroker "go-micro-jetstream/broker"
)

// unnamedBroker is the label of a broker without a client name.
const unnamedBroker = "jetstream"

// disconnectedFor is how long the gauge of a broker stays at 0 after Disconnect. It
// is shorter than the minute of the alert MicroBrokerDisconnected, because
// Disconnect is no outage. And a process that makes many brokers, one after the
// other, does not keep a gauge for each.
const disconnectedFor = 30 * time.Second

// brokers knows which brokers are connected. All methods are safe for concurrent
// use.
type brokers struct {
	connected  *prometheus.Desc
	windows    windowDescs
	reconnects *prometheus.CounterVec

	mu   sync.Mutex
	byID map[string]*brokerSeries // by BrokerID
}

// windowDescs are the gauges of the window of async publishes.
type windowDescs struct{ used, limit *prometheus.Desc }

// brokerSeries are the metrics of one broker. brokers.mu guards connected, closed and
// window.
type brokerSeries struct {
	label      string
	reconnects prometheus.Counter
	connected  bool
	closed     time.Time                // when Disconnect closed the connection; else zero
	window     func() (used, limit int) // nil: unknown
}

func newBrokers(vs *vectors) *brokers {
	return &brokers{
		connected: desc("connected", "1 while the broker is connected to a server, else 0. It goes half a minute after Disconnect.", "broker"),
		windows: windowDescs{
			used:  desc("async_window_used", "Messages published with Async that wait for their answers, or for their done, whichever are more.", "broker"),
			limit: desc("async_window_limit", "How large async_window_used may become before Publish with Async waits.", "broker"),
		},
		reconnects: vs.counter("reconnects_total", "Connections restored after they were lost.", "broker"),
		byID:       make(map[string]*brokerSeries),
	}
}

// change records a new state of a connection.
func (b *brokers) change(e jsbroker.ConnectionChanged) {
	var connected bool
	var closed time.Time
	switch e.State {
	case jsbroker.StateConnected, jsbroker.StateReconnected:
		connected = true
	case jsbroker.StateDisconnected:
	case jsbroker.StateClosed:
		if e.Err == nil { // an error means that the client gave up: an outage
			closed = time.Now()
		}
	default: // from a later version of the broker
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.byID[e.BrokerID]
	if s == nil {
		s = b.newSeries(e.ClientName)
		b.byID[e.BrokerID] = s
	}
	s.connected, s.closed, s.window = connected, closed, e.AsyncWindow
	if e.State == jsbroker.StateReconnected {
		s.reconnects.Inc()
	}
}

// newSeries returns the series of a new broker, which keeps its label as long as it
// exists. If another broker has the client name, the label is "name-2": with one
// gauge for both, the broker that is down could look connected. The caller holds
// b.mu.
func (b *brokers) newSeries(clientName string) *brokerSeries {
	name := label(clientName)
	if name == "" {
		name = unnamedBroker
	}
	value := name
	for n := 2; !b.free(value); n++ {
		value = fmt.Sprintf("%s-%d", name, n)
	}
	return &brokerSeries{label: value, reconnects: b.reconnects.WithLabelValues(value)}
}

// free reports whether a new broker may have the label. It takes the label from a
// broker that has disconnected. The caller holds b.mu.
func (b *brokers) free(value string) bool {
	for id, s := range b.byID {
		if s.label != value {
			continue
		}
		if s.closed.IsZero() {
			return false
		}
		delete(b.byID, id)
	}
	return true
}

func (b *brokers) describe(ch chan<- *prometheus.Desc) {
	ch <- b.connected
	ch <- b.windows.used
	ch <- b.windows.limit
}

// gauges returns the gauges of each broker. It forgets brokers that disconnected
// more than disconnectedFor ago.
func (b *brokers) gauges() []prometheus.Metric {
	b.mu.Lock()
	defer b.mu.Unlock()
	ms := make([]prometheus.Metric, 0, 3*len(b.byID))
	for id, s := range b.byID {
		if !s.closed.IsZero() && time.Since(s.closed) >= disconnectedFor {
			delete(b.byID, id)
			continue
		}
		connected := 0.0
		if s.connected {
			connected = 1
		}
		ms = append(ms, prometheus.MustNewConstMetric(b.connected, prometheus.GaugeValue, connected, s.label))
		if s.window != nil {
			used, limit := s.window()
			ms = append(ms,
				prometheus.MustNewConstMetric(b.windows.used, prometheus.GaugeValue, float64(used), s.label),
				prometheus.MustNewConstMetric(b.windows.limit, prometheus.GaugeValue, float64(limit), s.label))
		}
	}
	return ms
}
