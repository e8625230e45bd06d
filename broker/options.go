package broker

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"
)

const (
	defaultAckWait         = 30 * time.Second
	minAckWait             = 10 * time.Millisecond // who has less has forgotten the unit
	maxBatchSize           = 100_000               // a subscription makes room for two batches at once: 1.6 MB
	defaultShutdownTimeout = 20 * time.Second
	defaultMaxAckExtension = 15 * time.Minute
)

// settings are the values of this package's options. They travel in the Context
// of go-micro's options and are never changed once stored there.
type settings struct {
	batchSize       int // 0: adaptive
	fetchBytes      int
	fetchWait       time.Duration // 0: adaptive
	clientName      string
	natsOptions     []nats.Option
	streamConfig    *jetstream.StreamConfig
	streamName      func(topic string) string
	consumerConfig  *jetstream.ConsumerConfig
	othersStreams   bool // made by others only
	othersConsumers bool
	deadLetter      string
	window          int
	concurrency     int
	shutdownTimeout time.Duration
	maxAckExtension time.Duration
	hooks           []Hooks
	errs            []error
}

type settingsKey struct{}

func settingsOf(o *broker.Options) settings {
	if o.Context != nil {
		if s, ok := o.Context.Value(settingsKey{}).(*settings); ok {
			return *s
		}
	}
	return settings{
		streamName:      defaultStreamName,
		concurrency:     1,
		window:          defaultWindow,
		shutdownTimeout: defaultShutdownTimeout,
		maxAckExtension: defaultMaxAckExtension,
	}
}

// option stores a changed copy of the settings, so that a failed Init leaves
// the ones in use alone.
func option(change func(s *settings) error) broker.Option {
	return func(o *broker.Options) {
		s := settingsOf(o)
		if err := change(&s); err != nil {
			s.errs = append(slices.Clip(s.errs), fmt.Errorf("%w: %w", ErrInvalidConfig, err))
		}
		ctx := o.Context
		if ctx == nil {
			ctx = context.Background()
		}
		o.Context = context.WithValue(ctx, settingsKey{}, &s)
	}
}

// WithBatchSize fixes how many messages a fetch asks for: 1 to 100000. By default
// it is 10, and with a backlog as many, up to 900 or some 4 MiB, as the
// subscription lately handled in 50ms, with the next fetch under way before the
// last is handled: quick handlers are fed without pauses, and slow ones do not
// hoard what other replicas could handle. Fix it where messages are so uneven
// that the past does not tell, or where a batch must not exceed some number;
// there is then one fetch at a time.
func WithBatchSize(n int) broker.Option {
	return option(func(s *settings) error {
		switch {
		case n < 1:
			return fmt.Errorf("WithBatchSize(%d): want at least 1", n)
		case n > maxBatchSize:
			return fmt.Errorf("WithBatchSize(%d): want at most %d: each subscription has room for two batches", n, maxBatchSize)
		}
		s.batchSize = n
		return nil
	})
}

// WithFetchBytes bounds a fetch by n bytes, headers and protocol overhead
// included, in addition to the batch size: for large messages, so that a batch
// of them fits into memory. A single message that is larger is fetched alone.
// There is then one fetch at a time. By default all that are under way are bounded
// by 16 MiB, and a batch that was not fixed by some 4 MiB, by the size of the latest
// messages.
func WithFetchBytes(n int) broker.Option {
	return option(func(s *settings) error {
		if n < 1 {
			return fmt.Errorf("WithFetchBytes(%d): want at least 1", n)
		}
		s.fetchBytes = n
		return nil
	})
}

// WithFetchWait fixes how long the server holds a fetch open while the stream is
// empty: at least 10ms. Messages that arrive meanwhile are delivered at once. By
// default it is 5s, and up to 30s while nothing comes, which keeps idle
// subscriptions cheap. The broker notices a server that has died without a word
// within about this time: shorten it where that matters more.
func WithFetchWait(d time.Duration) broker.Option {
	return option(func(s *settings) error {
		if d < 10*time.Millisecond {
			return fmt.Errorf("WithFetchWait(%v): want at least 10ms", d)
		}
		s.fetchWait = d
		return nil
	})
}

// WithClientName sets the name of the NATS connection, by which operators find
// it in the server's monitoring. Default go-micro-{hostname}.
func WithClientName(name string) broker.Option {
	return option(func(s *settings) error {
		if name == "" {
			return fmt.Errorf("WithClientName: the name is empty")
		}
		s.clientName = name
		return nil
	})
}

// WithNATSOptions passes options to the NATS client: credentials, NKeys, TLS,
// reconnect policy, callbacks. They are applied after the broker's own and win
// over them: reconnection without end, also when the credentials are refused, and
// a FlusherTimeout of 5s after which a write that got stuck means a new
// connection. Raise that where large messages take longer on a slow network.
// Callbacks are called in addition to the broker's. May be given several times.
// Nil options are skipped.
func WithNATSOptions(opts ...nats.Option) broker.Option {
	return option(func(s *settings) error {
		s.natsOptions = append(slices.Clip(s.natsOptions), opts...)
		return nil
	})
}

// WithStreamConfig is the template for streams that the broker creates: storage,
// replicas, limits, retention, duplicates window. It is taken literally; its
// zero Retention is Limits. An empty Name and empty Subjects are filled in from
// the topic. Default: WorkQueue retention, file storage. Streams that exist are
// used as they are.
func WithStreamConfig(cfg jetstream.StreamConfig) broker.Option {
	return option(func(s *settings) error {
		if cfg.NoAck {
			return fmt.Errorf("WithStreamConfig: NoAck streams do not acknowledge, so Publish could not tell success from loss")
		}
		if cfg.Name != "" {
			if err := checkAssetName(cfg.Name); err != nil {
				return fmt.Errorf("WithStreamConfig: stream %q: %w", shorten(cfg.Name), err)
			}
		}
		cfg.Subjects, cfg.Metadata = slices.Clone(cfg.Subjects), maps.Clone(cfg.Metadata) // the caller may change its own
		s.streamConfig = &cfg
		return nil
	})
}

// WithStreamName replaces the rule that names the stream of a topic when one
// has to be created: the first token, upper-cased, with - turned into _. The
// function must be pure and safe for concurrent use.
func WithStreamName(name func(topic string) string) broker.Option {
	return option(func(s *settings) error {
		if name == nil {
			return fmt.Errorf("WithStreamName: the function is nil")
		}
		s.streamName = name
		return nil
	})
}

// WithConsumerConfig is the template for consumers that the broker creates:
// AckWait, MaxDeliver, MaxAckPending, BackOff, DeliverPolicy and so on. The
// broker fills in names and filters, acknowledgement is always explicit, and
// ReplayPolicy instant.
// Default: AckWait 30s, no limit of deliveries. AckWait, and each entry of
// BackOff, is at least 10ms. Consumers that exist are used as they are; a
// difference is logged.
func WithConsumerConfig(cfg jetstream.ConsumerConfig) broker.Option {
	return option(func(s *settings) error {
		switch {
		case cfg.Name != "" || cfg.Durable != "":
			return fmt.Errorf("WithConsumerConfig: Name and Durable come from broker.Queue")
		case cfg.FilterSubject != "" || len(cfg.FilterSubjects) > 0:
			return fmt.Errorf("WithConsumerConfig: the filter comes from the topic")
		case cfg.AckPolicy != jetstream.AckExplicitPolicy:
			return fmt.Errorf("WithConsumerConfig: AckPolicy must be explicit: the broker settles each message")
		case cfg.DeliverSubject != "" || cfg.DeliverGroup != "":
			return fmt.Errorf("WithConsumerConfig: the broker uses pull consumers; leave DeliverSubject and DeliverGroup empty")
		case len(cfg.PriorityGroups) > 0:
			return fmt.Errorf("WithConsumerConfig: priority groups are not supported")
		case cfg.ReplayPolicy != jetstream.ReplayInstantPolicy:
			// While it waits for a message's time it sends no heartbeats, as if it were dead.
			return fmt.Errorf("WithConsumerConfig: ReplayPolicy must be instant: a server that replays slowly cannot be told from one that has died")
		case cfg.MaxDeliver > 0 && len(cfg.BackOff) > cfg.MaxDeliver:
			return fmt.Errorf("WithConsumerConfig: BackOff has %d entries, MaxDeliver is %d: the server wants no more entries than deliveries", len(cfg.BackOff), cfg.MaxDeliver)
		case cfg.AckWait != 0 && cfg.AckWait < minAckWait:
			return fmt.Errorf("WithConsumerConfig: AckWait is %v, want at least %v: no handler could be in time", cfg.AckWait, minAckWait)
		case slices.ContainsFunc(cfg.BackOff, func(d time.Duration) bool { return d < minAckWait }):
			return fmt.Errorf("WithConsumerConfig: BackOff is %v, want at least %v each: they replace AckWait, and no handler could be in time", cfg.BackOff, minAckWait)
		}
		s.consumerConfig = &cfg
		return nil
	})
}

// WithExistingStreams leaves streams to others, such as Terraform or NACK: the
// broker uses those that exist and never creates one. Publish and Subscribe
// return [ErrStreamNotFound] for a topic without a stream, which goes for the
// topic of [WithDeadLetter], too. A subscription whose stream is deleted waits
// until somebody creates it again. It excludes [WithStreamConfig], the template
// for streams that the broker creates.
func WithExistingStreams() broker.Option {
	return option(func(s *settings) error {
		s.othersStreams = true
		return nil
	})
}

// WithExistingConsumers leaves consumers to others: the broker never creates
// one. A queue needs a pull consumer with explicit acknowledgement whose name is
// the queue's and whose only filter is the topic; Subscribe returns
// [ErrConsumerNotFound], which says what to create, if there is none. For a
// further topic of the same queue and stream it names the consumer to create.
// A subscription whose consumer is deleted waits until somebody creates it
// again. Subscribe needs a queue, and creates no stream either. It excludes
// [WithConsumerConfig], the template for consumers that the broker creates.
func WithExistingConsumers() broker.Option {
	return option(func(s *settings) error {
		s.othersConsumers = true
		return nil
	})
}

// WithDeadLetter publishes messages that are given up on to the topic: those
// that failed on delivery MaxDeliver or later (set it with [WithConsumerConfig])
// and those that the handler discarded with [Discard]. The original is
// terminated only after the dead letter is stored. A dead letter has the
// original's body, as it was received, and headers plus Micro-Dead-Letter-Reason,
// -Topic, -Stream, -Queue and -Deliveries. Consumers with HeadersOnly, which
// deliver no bodies, are refused therefore.
//
// On consumers that the broker creates, it counts the deliveries itself and
// tells the server of no limit: the server would merely stop delivering, and a
// message whose last delivery a restart has cut short would be stuck. Such a
// message is handled again; after 10 deliveries more than MaxDeliver it becomes
// a dead letter without a further try. Left out later, it leaves such a consumer
// without a limit; Subscribe logs that.
//
// Off by default: discarded messages are terminated, exhausted ones stay in the
// stream.
func WithDeadLetter(topic string) broker.Option {
	return option(func(s *settings) error {
		if err := checkPublishTopic(topic); err != nil {
			return fmt.Errorf("WithDeadLetter: %w", err)
		}
		s.deadLetter = topic
		return nil
	})
}

// WithConcurrency sets how many handlers each subscription may run at a time:
// at least 1, the default, which keeps the order of the stream. [Concurrency]
// sets it for one subscription.
func WithConcurrency(n int) broker.Option {
	return option(func(s *settings) error {
		if n < 1 {
			return fmt.Errorf("WithConcurrency(%d): want at least 1", n)
		}
		s.concurrency = n
		return nil
	})
}

// WithAsyncWindow sets how many messages published with [Async] may wait for
// their answers: at least 1, default 1000. When that many do, or wait for their done
// after that, Publish waits for room; not so in done itself. More is faster on a slow network and takes more memory in an outage.
func WithAsyncWindow(n int) broker.Option {
	return option(func(s *settings) error {
		if n < 1 {
			return fmt.Errorf("WithAsyncWindow(%d): want at least 1", n)
		}
		s.window = n
		return nil
	})
}

// WithShutdownTimeout bounds how long Disconnect waits for running handlers:
// default 20s, below the 30s that Kubernetes grants a pod to stop. When it
// passes, the contexts of the handlers are cancelled, and Disconnect closes the
// connection and returns [ErrShutdownTimeout]. The same bound is for publishes
// without an answer. Zero does not wait.
func WithShutdownTimeout(d time.Duration) broker.Option {
	return option(func(s *settings) error {
		if d < 0 {
			return fmt.Errorf("WithShutdownTimeout(%v): want 0 or more", d)
		}
		s.shutdownTimeout = d
		return nil
	})
}

// WithMaxAckExtension bounds how long the broker keeps telling the server that
// a message is still being worked on, counted from its delivery: default 15m.
// Within it a slow handler, and the messages waiting behind it, are not
// delivered a second time. Past it, a handler that hangs loses its message to
// another replica after AckWait. Zero switches the extension off.
func WithMaxAckExtension(d time.Duration) broker.Option {
	return option(func(s *settings) error {
		if d < 0 {
			return fmt.Errorf("WithMaxAckExtension(%v): want 0 or more", d)
		}
		s.maxAckExtension = d
		return nil
	})
}

// WithHooks installs observers; see [Hooks]. May be given several times: all
// of them run.
func WithHooks(hooks ...Hooks) broker.Option {
	return option(func(s *settings) error {
		s.hooks = append(slices.Clip(s.hooks), hooks...)
		for _, h := range hooks {
			if h.Err != nil {
				return fmt.Errorf("WithHooks: %w", h.Err)
			}
		}
		return nil
	})
}

// config is what the options amount to.
type config struct {
	settings
	servers      []string
	log          logger.Logger
	errorHandler broker.Handler
	opts         broker.Options
	dispatch     *dispatcher
}

func newConfig(o broker.Options) (*config, error) {
	c := &config{settings: settingsOf(&o), opts: o, errorHandler: o.ErrorHandler}
	c.log = logger.LoggerOrDefault(o.Logger)
	if c.clientName == "" {
		c.clientName = defaultClientName()
	}
	var err error
	if c.servers, err = serverURLs(o.Addrs, o.Secure); err != nil {
		return nil, err
	}
	for _, e := range c.errs {
		return nil, fmt.Errorf("jetstream: %w", e)
	}
	switch {
	case c.othersStreams && c.streamConfig != nil:
		return nil, fmt.Errorf("jetstream: %w: WithStreamConfig is for streams that the broker creates, and WithExistingStreams has it create none: leave one of them out", ErrInvalidConfig)
	case c.othersConsumers && c.consumerConfig != nil:
		return nil, fmt.Errorf("jetstream: %w: WithConsumerConfig is for consumers that the broker creates, and WithExistingConsumers has it create none: leave one of them out", ErrInvalidConfig)
	case c.deadLetter != "" && c.consumerConfig != nil && c.consumerConfig.HeadersOnly:
		return nil, fmt.Errorf("jetstream: %w: WithDeadLetter keeps the bodies of messages, and with HeadersOnly in WithConsumerConfig there are none: leave one of them out", ErrInvalidConfig)
	}
	c.dispatch = newDispatcher(c.hooks, c.log)
	return c, nil
}

func defaultClientName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		return "go-micro"
	}
	return "go-micro-" + host
}

// serverURLs normalises addresses: go-micro passes what users type, bare
// host:port most of the time, and comma lists from the environment.
func serverURLs(addrs []string, secure bool) ([]string, error) {
	var urls []string
	for _, list := range addrs {
		for a := range strings.SplitSeq(list, ",") {
			a = strings.TrimSpace(a)
			if a == "" {
				continue
			}
			scheme, _, ok := strings.Cut(a, "://")
			switch {
			case !ok && secure:
				a = "tls://" + a
			case !ok:
				a = "nats://" + a
			case secure && scheme == "ws":
				return nil, fmt.Errorf("jetstream: %w: broker.Secure with the plain-text address %s: use wss://", ErrInvalidConfig, withoutCredentials(a))
			case scheme != "nats" && scheme != "tls" && scheme != "ws" && scheme != "wss":
				return nil, fmt.Errorf("jetstream: %w: address %s: the scheme must be nats, tls, ws or wss", ErrInvalidConfig, withoutCredentials(a))
			}
			if _, err := url.Parse(a); err != nil {
				// Its text would show the password, or a part of it.
				return nil, fmt.Errorf("jetstream: %w: address %s is not a URL: special characters in user and password must be percent-encoded", ErrInvalidConfig, withoutCredentials(a))
			}
			urls = append(urls, a)
		}
	}
	if len(urls) == 0 {
		urls = []string{nats.DefaultURL}
	}
	return urls, nil
}

// withoutCredentials cuts user, password and token out of a server URL. It
// works on the text, so that it also does on URLs that do not parse.
func withoutCredentials(addr string) string {
	scheme, rest, ok := strings.Cut(addr, "://")
	if !ok {
		scheme, rest = "", addr
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	if scheme == "" {
		return rest
	}
	return scheme + "://" + rest
}

// publishOptions are what a Publish was asked for.
type publishOptions struct {
	ctx       context.Context
	messageID string
	async     func(error)
	original  nats.Header // of a dead letter; see addValues
}

// publishContext carries this package's publish options in the Context of
// go-micro's.
type publishContext struct {
	context.Context
	messageID string
	async     func(error)
}

// ownOptions returns this package's options in those of go-micro, for one to be changed.
// They are a copy: several options pass through a context together, and one may be used
// for several messages.
func ownOptions(o *broker.PublishOptions) *publishContext {
	next := &publishContext{Context: o.Context}
	if own, ok := o.Context.(*publishContext); ok {
		*next = *own
	}
	if next.Context == nil {
		next.Context = context.Background()
	}
	o.Context = next
	return next
}

// MessageID sets the id by which JetStream recognises a message that it has
// already stored, within the stream's duplicates window (2 minutes by default):
// for publishers that retry, also after a restart. By default each Publish has
// a random id of its own, which covers the broker's retries only. Publishing a
// duplicate succeeds and stores nothing.
//
// An id counts in the whole stream, not in its topic: the same id on a second topic
// of the stream is a duplicate, too. Put the topic into the id.
func MessageID(id string) broker.PublishOption {
	return func(o *broker.PublishOptions) { ownOptions(o).messageID = id }
}

// Async has Publish return as soon as the message is sent: for publishers that
// have many messages at hand and can tell later which of them failed. When
// Publish returns nil, done is called once, with nil when the message is stored
// or with the error that Publish would have returned. When Publish returns an
// error, done is not called. Of broker.PublishContext, the deadline counts until the
// outcome is known, and the cancellation until Publish has returned: after that it
// does nothing. done is called for one message of the connection after
// the other, so what takes long belongs elsewhere. Disconnect waits for the answers
// and for done, within its bound.
//
// The body must not change until then: it may have to be sent again. Messages of
// one goroutine are stored in the order of its calls, but for those that are.
//
// [WithAsyncWindow] bounds the messages under way; when it is full, Publish
// waits for room. It also waits for a lost connection to come back, and while a
// stream is looked up. With a nil done it waits for the answer as usual.
func Async(done func(error)) broker.PublishOption {
	return func(o *broker.PublishOptions) { ownOptions(o).async = done }
}

// publishOptionsOf takes this package's options out of the context after each
// option, because broker.PublishContext replaces the context that they need:
// they work in any order. Options of others find the context that is there so
// far.
func publishOptionsOf(opts []broker.PublishOption) publishOptions {
	p := publishOptions{ctx: context.Background()}
	for _, opt := range opts {
		if opt == nil {
			continue
		}
		o := broker.PublishOptions{Context: p.ctx}
		opt(&o)
		own, ok := o.Context.(*publishContext)
		switch {
		case ok:
			if own.messageID != "" {
				p.messageID = own.messageID
			}
			if own.async != nil {
				p.async = own.async
			}
			p.ctx = own.Context //nolint:fatcontext // as many as there are options
		case o.Context != nil:
			p.ctx = o.Context
		}
	}
	return p
}

type concurrencyContext struct {
	context.Context
	n int
}

// Concurrency sets how many handlers one subscription may run at a time; see
// [WithConcurrency]. Values below 1 make Subscribe fail.
func Concurrency(n int) broker.SubscribeOption {
	return func(o *broker.SubscribeOptions) {
		ctx := o.Context
		if ctx == nil {
			ctx = context.Background()
		}
		o.Context = &concurrencyContext{Context: ctx, n: n}
	}
}

// subscribeOptionsOf returns the options of a Subscribe with their context, and
// the concurrency, 0 if none was asked for.
func subscribeOptionsOf(opts []broker.SubscribeOption) (so broker.SubscribeOptions, concurrency int, set bool) {
	so = broker.SubscribeOptions{AutoAck: true}
	ctx := context.Background()
	for _, opt := range opts {
		if opt == nil {
			continue
		}
		so.Context = ctx //nolint:fatcontext // as options of others leave it; a nil one does not stay
		opt(&so)
		if c, ok := so.Context.(*concurrencyContext); ok {
			concurrency, set = c.n, true
			ctx = c.Context
		} else if so.Context != nil {
			ctx = so.Context
		}
	}
	so.Context = ctx
	return so, concurrency, set
}
