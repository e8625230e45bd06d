package metrics

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
)

const (
	// defaultInterval fits a scrape interval of 15 seconds: each scrape has new values.
	defaultInterval = 15 * time.Second
	// defaultMaxStreams and defaultMaxConsumers bound what the server is asked, and the
	// series: about nine for each of either.
	defaultMaxStreams   = 100
	defaultMaxConsumers = 500

	// scrapeWait is how long a scrape waits for answers. It is far below the shortest
	// timeout of a scrape that anybody sets. What comes later is for the next scrape.
	scrapeWait = time.Second
	// roundTimeout bounds all questions of one round.
	roundTimeout = 30 * time.Second
	// keepFor is how long the last answer about a stream counts at least while no new one
	// comes: see keep.
	keepFor = 2 * time.Minute
	// refusedFor is how long a question is not asked again after the server has refused
	// it for lack of permission: it writes a line into its log each time.
	refusedFor = 30 * time.Minute
)

// Server is a [prometheus.Collector] of what only the server knows: how full streams
// are, and what waits for whom, also where nobody subscribes any more. [NewServer]
// makes one. It is safe for concurrent use.
type Server struct {
	broker       broker.Broker
	log          logger.Logger
	interval     time.Duration
	only         []string // names of streams; empty: all
	maxStreams   int
	maxConsumers int
	shared       *shared

	descs  serverDescs
	errors *prometheus.CounterVec

	mu     sync.Mutex
	round  chan struct{} // closed with the questions under way; nil: none are
	asked  time.Time     // when the latest questions began, or the oldest answer to them was heard
	latest serverState
}

// ServerOption configures [NewServer]. A nil one is skipped.
type ServerOption func(*Server) error

// ServerInterval sets how old the answers of the server may become before they are
// asked for again, at least a second. The default is 15 seconds. However often and by
// whomever the process is scraped, it asks no more often. A longer one is for many
// replicas that all have a [Server] without [ServerShared]: each of them asks.
func ServerInterval(d time.Duration) ServerOption {
	return func(s *Server) error {
		if d < time.Second {
			return fmt.Errorf("%w: ServerInterval(%v): want at least a second", jsbroker.ErrInvalidConfig, d)
		}
		s.interval = d
		return nil
	}
}

// ServerStreams makes the [Server] ask for these streams only. The default is all of the
// account, in alphabetical order. It then needs no permission to list streams.
func ServerStreams(names ...string) ServerOption {
	return func(s *Server) error {
		for _, name := range names {
			if !slices.Contains(s.only, name) {
				s.only = append(s.only, name)
			}
		}
		return nil
	}
}

// ServerLimits bounds how many streams and consumers the [Server] asks for and has
// series of, about nine each: the defaults are 100 and 500. If there are more,
// micro_broker_server_truncated is 1. Numbers below 1 are an error.
func ServerLimits(streams, consumers int) ServerOption {
	return func(s *Server) error {
		if streams < 1 || consumers < 1 {
			return fmt.Errorf("%w: ServerLimits(%d, %d): want at least 1", jsbroker.ErrInvalidConfig, streams, consumers)
		}
		s.maxStreams, s.maxConsumers = streams, consumers
		return nil
	}
}

// NewServer returns a collector that asks the server about streams and consumers, on
// the connection of b. Register it where the hooks of [New] are:
//
//	server, err := metrics.NewServer(b)
//	…
//	reg.MustRegister(server)
//
// b need not be connected yet. The broker does not need this collector, and nothing of
// what it does depends on it.
//
// A scrape asks if the latest answers are older than [ServerInterval]. It waits a
// second for them, and otherwise takes what there is; an answer counts for two minutes.
// A stream that does not answer does not hold up the others: it is asked last, and those
// are shown before. Nothing runs between scrapes. The questions are one for the list of
// streams, two for each stream, whatever the number of its consumers up to 256, and one
// more for the stream of the dead-letter topic.
//
// The user of the connection must be permitted to publish to
//
//	$JS.API.STREAM.NAMES            unless there are ServerStreams
//	$JS.API.STREAM.INFO.<stream>
//	$JS.API.CONSUMER.LIST.<stream>
//
// where * may stand for the stream. What the server refuses is said once in the
// broker's log, is counted by micro_broker_server_errors_total with the reason
// permission, and is asked again after half an hour; micro_broker_server_up is 0 until
// then. All else goes on.
//
// One process of a cluster is enough, and best: it need not be a service, only a broker
// that is connected. However many Prometheus servers scrape it, it asks once in an
// interval. Each further process that has a Server asks for itself, so ten replicas ask
// ten times as often, unless they share the answers with [ServerShared].
// All report the same values: use max, not sum, and count(micro_broker_server_up) to see
// how many there are. Two on one registry, for two clusters, need a label of their own: see
// [prometheus.WrapRegistererWith]. Errors: [jsbroker.ErrInvalidConfig], [jsbroker.ErrForeign].
func NewServer(b broker.Broker, opts ...ServerOption) (*Server, error) {
	s := &Server{
		broker:       b,
		interval:     defaultInterval,
		maxStreams:   defaultMaxStreams,
		maxConsumers: defaultMaxConsumers,
		shared:       &shared{room: maxHeard},
		descs:        newServerDescs(),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "server_errors_total", Help: "Questions about streams and consumers that were not answered, by reason.",
		}, []string{"reason"}),
	}
	if err := foreign(b); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	s.log = logger.LoggerOrDefault(b.Options().Logger)
	for _, opt := range opts {
		if opt == nil {
			continue
		}
		if err := opt(s); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	for _, reason := range []string{"disconnected", "permission", "timeout", reasonOther} {
		s.errors.WithLabelValues(reason) // exists, at zero, from now on
	}
	return s, nil
}

// foreign returns an error for a broker of another kind.
func foreign(b broker.Broker) error {
	if b == nil {
		return fmt.Errorf("%w: the broker is nil", jsbroker.ErrForeign)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel() // nothing is sent
	err := jsbroker.JetStream(ended, b, "", func(context.Context, jetstream.JetStream) error { return nil })
	if errors.Is(err, jsbroker.ErrForeign) {
		return err
	}
	return nil
}

// Describe implements [prometheus.Collector].
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	s.errors.Describe(ch)
	s.descs.describe(ch)
}

// Collect implements [prometheus.Collector].
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	if round := s.begin(); round != nil {
		timer := time.NewTimer(scrapeWait)
		defer timer.Stop()
		select {
		case <-round:
		case <-timer.C:
		}
	}
	state := s.state()
	s.errors.Collect(ch)
	// Sent without the lock: ch may be slow.
	s.descs.collect(ch, &state, s.keep())
}

// begin asks the server if it is time for that. It returns a channel that is closed
// with the end of the questions under way, nil if there are none.
func (s *Server) begin() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.round == nil && time.Since(s.asked) >= s.renewal() {
		s.asked = time.Now()
		s.round = make(chan struct{})
		go s.ask(s.latest, s.round)
	}
	return s.round
}

// keep is how long the last answer about a stream counts while no new one comes.
func (s *Server) keep() time.Duration { return max(keepFor, 2*s.interval) }

// renewal is how old answers may become. A scrape comes a little early at times. That
// must not cost it a whole interval.
func (s *Server) renewal() time.Duration { return s.interval - s.interval/10 }

func (s *Server) state() serverState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest
}

// ask asks all questions of a round.
func (s *Server) ask(before serverState, done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	state := (&inquiry{server: s, before: &before}).run(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest, s.round, s.asked = state, nil, state.oldest
	close(done)
}

// show has scrapes see what a round has found so far.
func (s *Server) show(state serverState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = state
}
