package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/wire"
)

const (
	// defaultWindow is the default of [WithAsyncWindow]: enough to fill a fast
	// network, few enough to fit into the server's buffer for a client.
	defaultWindow          = 1000
	maxBatchSize           = 100_000 // a subscription makes room for two batches at once: 1.6 MB
	defaultShutdownTimeout = 20 * time.Second
	defaultMaxAckExtension = 15 * time.Minute
)

// settings are the values of this package's options. They travel in the Context
// of go-micro's options. Once stored there they never change.
type settings struct {
	batchSize       int // 0: adaptive
	fetchBytes      int
	fetchWait       time.Duration // 0: adaptive
	clientName      string
	natsOptions     []nats.Option
	domain          string
	apiPrefix       string
	rules           asset.Rules // of streams and consumers
	window          int
	concurrency     int
	shutdownTimeout time.Duration
	maxAckExtension time.Duration
	hooks           []Hooks
	wrong           []wrongOption
}

// wrongOption is an option whose latest value was refused.
type wrongOption struct {
	name string
	err  error
}

// adds is the name of options that do not replace what was there.
const adds = ""

type settingsKey struct{}

func settingsOf(o *broker.Options) settings {
	if o.Context != nil {
		if s, ok := o.Context.Value(settingsKey{}).(*settings); ok {
			return *s
		}
	}
	return settings{
		concurrency:     1,
		window:          defaultWindow,
		shutdownTimeout: defaultShutdownTimeout,
		maxAckExtension: defaultMaxAckExtension,
	}
}

// option stores a changed copy of the settings, so that a failed Init leaves
// the ones in use alone. A value that is refused is an error until the option of that name
// gets another one, unless it adds to what there is.
func option(name string, change func(s *settings) error) broker.Option {
	return func(o *broker.Options) {
		s := settingsOf(o)
		s.wrong = slices.DeleteFunc(slices.Clone(s.wrong), func(w wrongOption) bool { return w.name == name && name != adds })
		if err := change(&s); err != nil {
			s.wrong = append(s.wrong, wrongOption{name, fmt.Errorf("%w: %w", ErrInvalidConfig, err)})
		}
		ctx := o.Context
		if ctx == nil {
			ctx = context.Background()
		}
		o.Context = context.WithValue(ctx, settingsKey{}, &s)
	}
}

// WithBatchSize fixes how many messages a fetch asks for: 1 to 100000.
//
// By default the broker adapts the batch to the handlers. It begins with 10
// messages. With a backlog it asks for as many as the subscription lately
// handled in 50ms, up to 900 messages or some 4 MiB, and fetches the next batch
// before the last one is handled. So quick handlers never wait, and slow ones do
// not hold messages that other replicas could handle.
//
// Fix the size where the cost of messages varies too much to predict, or where a
// batch must not exceed some number. There is then one fetch at a time.
func WithBatchSize(n int) broker.Option {
	return option("WithBatchSize", func(s *settings) error {
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
// included, in addition to the batch size. Use it for large messages, so that a
// batch of them fits into memory. A single message that is larger is fetched
// alone. There is then one fetch at a time.
//
// By default the fetches under way may bring 16 MiB in all, and a batch that was
// not fixed aims at some 4 MiB, judged by the size of the latest messages.
func WithFetchBytes(n int) broker.Option {
	return option("WithFetchBytes", func(s *settings) error {
		if n < 1 {
			return fmt.Errorf("WithFetchBytes(%d): want at least 1", n)
		}
		s.fetchBytes = n
		return nil
	})
}

// WithFetchWait fixes how long the server holds a fetch open while the stream is
// empty: at least 10ms. Messages that arrive meanwhile are delivered at once. The
// default is 5s, and up to 30s while nothing comes, which keeps idle
// subscriptions cheap.
//
// While it waits, the server sends heartbeats: every 2s for a connection with few
// subscriptions, every 15s for one with 150 or more. When they stop, although the
// connection is up, the broker notices within about 5s, or 20s: the link of a leaf node
// was cut, or the server of the stream is gone. A wait below 4s has no heartbeats, and
// the broker notices a second after its end.
func WithFetchWait(d time.Duration) broker.Option {
	return option("WithFetchWait", func(s *settings) error {
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
	return option("WithClientName", func(s *settings) error {
		if name == "" {
			return fmt.Errorf("WithClientName: the name is empty")
		}
		s.clientName = name
		return nil
	})
}

// WithNATSOptions passes options to the NATS client: credentials, NKeys, TLS,
// reconnect policy, callbacks. It may be given several times. Nil options are
// skipped.
//
// The options are applied after the broker's own and win over them. The broker's
// own are:
//   - Reconnect for ever, even if the credentials are refused.
//   - A PingInterval of 10s with MaxPingsOutstanding 2: a connection that has died
//     silently, behind a NAT or with its node, is noticed within 30 seconds, even by a
//     service that only subscribes. nats.go alone takes six minutes. Raise the interval
//     if the answer to a ping may take longer than 20 seconds.
//   - A FlusherTimeout of 5s, after which a write that is stuck means a new
//     connection. Raise that where large messages take longer on a slow network.
//
// If the client closes for good, at an error that it does not know or because a
// callback of yours closes it, the broker makes another one with the same options, and
// calls nats.ConnectHandler again. It does not do so at a limit that you have set:
// nats.NoReconnect, nats.MaxReconnects.
//
// With TLS, nats.go reads the names of further servers of the cluster before the
// connection is encrypted. Somebody who can change that text may add their own server.
// It gets the credentials if it has a certificate for its name that the client trusts.
// So trust only your own certificate authority (RootCAs in broker.TLSConfig), or use
// nats.IgnoreDiscoveredServers and name all servers in broker.Addrs, or
// nats.TLSHandshakeFirst, with handshake_first in the server's tls block. By default
// the broker ignores no servers, because for many clients this is the only way to reach
// the rest of a cluster.
//
// nats.Timeout, 2s, bounds each attempt to connect to one server, also to one that
// accepts the connection and then says nothing. Callbacks are called in addition to
// the broker's.
func WithNATSOptions(opts ...nats.Option) broker.Option {
	opts = slices.Clone(opts)
	return option(adds, func(s *settings) error {
		s.natsOptions = append(slices.Clip(s.natsOptions), opts...)
		return nil
	})
}

// WithDomain uses the JetStream of that domain, rather than that of the server that the
// broker is connected to. Use it where a service connects to a leaf node and the streams
// are on its hub, whether the leaf node has a JetStream of its own or not. The name
// is domain in the jetstream block of the hub's configuration. It is one token; case
// matters.
//
// Everything works through it: creating streams, publishing, consuming, dead letters,
// messages that are delivered later, [Redrive]. Permissions change with it: $JS.API.>
// becomes $JS.<domain>.API.>. Acknowledgements still go to $JS.ACK.>, and topics stay
// as they are.
//
// Connect returns an [ErrJetStreamUnavailable] that names the domain if nobody answers
// there. Another domain needs another connection. The option excludes [WithAPIPrefix].
//
// Topics and stream names are not part of a domain. If the leaf node's own JetStream has
// a stream for a topic as well, each message would be stored there, too. Publish and
// Subscribe return [ErrStoredTwice] then. If the leaf node has a consumer with the names
// of stream and queue, it would take the acknowledgements for its own, and Subscribe
// returns [ErrConsumerConflict].
func WithDomain(name string) broker.Option {
	return option("WithDomain", func(s *settings) error {
		if err := wire.CheckDomain(name); err != nil {
			return fmt.Errorf("WithDomain: %w", err)
		}
		s.domain = name
		return nil
	})
}

// WithAPIPrefix uses the JetStream whose API has that prefix in place of $JS.API. Use
// it where another account exports its JetStream and yours imports it under a prefix of
// its own. Write it without the final dot, as in JS.orders.API. A dot at the end is
// ignored.
//
// Your account has to import, as services: the prefix followed by >, INFO included; the
// topics; and $JS.ACK.<stream>.>, as acknowledgements keep their subjects. The export
// of the API needs the response type "Stream", because a request for messages has
// several answers. [DeliverAfter] and [DeliverAt] need _later.<stream>.> as well.
//
// Connect returns an [ErrJetStreamUnavailable] that names the prefix if nobody answers
// there. The option excludes [WithDomain]. As there, a second stream for a topic, in your
// own account, is an [ErrStoredTwice].
func WithAPIPrefix(prefix string) broker.Option {
	return option("WithAPIPrefix", func(s *settings) error {
		prefix := strings.TrimSuffix(prefix, ".")
		if err := wire.CheckAPIPrefix(prefix); err != nil {
			return fmt.Errorf("WithAPIPrefix: %w", err)
		}
		s.apiPrefix = prefix
		return nil
	})
}

// WithStreamConfig is the template for streams that the broker creates: storage,
// replicas, limits, retention, duplicates window. It is taken literally, so its
// zero Retention is Limits. An empty Name and empty Subjects are filled in from
// the topic. The default is WorkQueue retention and file storage.
//
// A stream that the broker made follows the template: when Subscribe, or the first
// Publish to it, finds that the code has changed a field since, it changes the stream
// and logs that. Subjects are only added. If a limit becomes smaller, the server
// discards what is beyond it. A field that somebody else has changed is kept, with a
// warning. So is what the server cannot change: the storage, and retention to or from
// WorkQueue. A stream that others made is never changed, and a difference is logged
// once. Services that share a stream need the same template for it, or none.
func WithStreamConfig(cfg jetstream.StreamConfig) broker.Option {
	template := asset.CopyTemplate(cfg)
	return option("WithStreamConfig", func(s *settings) error {
		if err := asset.CheckStreamTemplate(*template); err != nil {
			return err
		}
		s.rules.StreamTemplate = template
		return nil
	})
}

// WithStreamName replaces the rule that names the stream of a topic when one
// has to be created: the first token, upper-cased, with - turned into _. The
// function must be pure and safe for concurrent use. If it panics, or has not returned
// after a second, what asks for the stream fails with [ErrInvalidConfig]. Other topics do
// not wait for it. At most five calls for a topic hang at a time, and 30 in all.
func WithStreamName(name func(topic string) string) broker.Option {
	return option("WithStreamName", func(s *settings) error {
		if name == nil {
			return fmt.Errorf("WithStreamName: the function is nil")
		}
		s.rules.StreamName = name
		return nil
	})
}

// WithConsumerConfig is the template for consumers that the broker creates:
// AckWait, MaxDeliver, MaxAckPending, BackOff, DeliverPolicy and so on. The
// broker fills in names and filters. Acknowledgement is always explicit, and
// ReplayPolicy always instant.
//
// The default is an AckWait of 30s and no limit of deliveries. AckWait, and each
// entry of BackOff, is at least 10ms.
//
// The consumer of a queue follows the template if the broker made it: when Subscribe
// finds that the code has changed a field since, it changes the consumer and logs that.
// A field that somebody else has changed is kept, with a warning. So is what the server
// cannot change: DeliverPolicy and its start, MaxWaiting, the storage. Running
// subscriptions of other replicas learn of the change with the next failure. A consumer
// that others made is never changed, and a difference is logged. With HeadersOnly
// handlers get empty bodies; Subscribe refuses such a consumer where the template does
// not ask for it.
func WithConsumerConfig(cfg jetstream.ConsumerConfig) broker.Option {
	template := consumers.CopyTemplate(cfg)
	return option("WithConsumerConfig", func(s *settings) error {
		if err := consumers.CheckConsumerTemplate(*template); err != nil {
			return fmt.Errorf("WithConsumerConfig: %w", err)
		}
		s.rules.ConsumerTemplate = template
		return nil
	})
}

// WithExistingStreams leaves streams to others, such as Terraform or NACK: the
// broker uses those that exist and never creates one. Publish and Subscribe
// return [ErrStreamNotFound] for a topic without a stream. The topic of
// [WithDeadLetter] needs a stream, too. A subscription whose stream is deleted
// waits until somebody creates it again. The option excludes [WithStreamConfig],
// the template for streams that the broker creates.
func WithExistingStreams() broker.Option {
	return option("WithExistingStreams", func(s *settings) error {
		s.rules.NeverCreateStreams = true
		return nil
	})
}

// WithExistingConsumers leaves consumers to others: the broker never creates
// one, and no stream for Subscribe either. A queue needs a pull consumer with
// explicit acknowledgement. Its name is that of the queue, and its only filter
// is the topic. If there is none, Subscribe returns [ErrConsumerNotFound], which
// names the consumer to create, also for a further topic of the same queue and
// stream. A subscription whose consumer is deleted waits until somebody creates
// it again.
//
// Subscribe needs a queue. The option excludes [WithConsumerConfig], the template
// for consumers that the broker creates.
func WithExistingConsumers() broker.Option {
	return option("WithExistingConsumers", func(s *settings) error {
		s.rules.NeverCreateConsumers = true
		return nil
	})
}

// WithDeadLetter publishes messages that are given up to the topic: those that
// failed on delivery MaxDeliver or later (set it with [WithConsumerConfig]), and
// those that the handler discarded with [Discard]. The original is terminated
// only after the dead letter is stored.
//
// A dead letter has the body of the original, as it was received. It has the
// headers of the original and Micro-Dead-Letter-Reason, -Topic, -Stream,
// -Sequence, -Queue, -Deliveries and -Hops. In the values of -Topic, -Stream and
// -Queue, control characters and % are written as %XX. [Redrive] publishes dead
// letters to their topics again.
//
// A dead letter that is too large for the server or for the stream of the topic
// is cut, and Micro-Dead-Letter-Cut says what is missing: the end of the reason,
// headers, at last the body. The letter is then a reference to -Stream and
// -Sequence, logged as an error, and the original stays in its stream until [Redrive]
// publishes it: with WorkQueue and Interest retention it counts as delivered and
// unsettled, and takes one of MaxAckPending. If not even the reference fits, the
// message stays as well, with an error in the log and an Exhausted event, and is tried
// again after 24 hours. So give the topic's stream no MaxMsgSize.
//
// A stream with Interest retention acknowledges what it has no consumer for, and drops
// it. While the topic's stream is like that, the message is kept as well, with an error
// in the log: subscribe to the dead-letter topic once, or let its stream have another
// retention. To see that, the broker asks for the stream's consumers
// ($JS.API.CONSUMER.LIST) before each dead letter.
//
// A message that has become a dead letter 5 times, because something leads from
// the topic back to the subscription, is kept; see [ErrDeadLetterLoop].
//
// Consumers with HeadersOnly deliver no bodies, so Subscribe
// refuses them.
//
// The broker counts the deliveries itself, by MaxDeliver of the running
// configuration, and sets no limit on the server. This holds from the next delivery
// on, whatever the age of the consumer and whoever made it, unless somebody else has
// given it a limit on the server, which then counts. The server would only stop
// delivering, and a message whose last delivery was cut short by a restart would be
// stuck. Such a message is handled again. After 10 deliveries more than MaxDeliver
// it becomes a dead letter without another try, as it may be what crashes the
// process. That does not happen on a consumer whose handlers have ever returned
// [Snooze], nor on consumers that this module did not make or may not change: the
// number of deliveries says too little there. When the option is left out later,
// the next Subscribe gives the limit to the server.
//
// It is off by default: discarded messages are terminated, and exhausted ones
// stay in the stream.
func WithDeadLetter(topic string) broker.Option {
	return option("WithDeadLetter", func(s *settings) error {
		if err := wire.CheckPublishTopic(topic); err != nil {
			return fmt.Errorf("WithDeadLetter: %w", err)
		}
		s.rules.DeadLetter = topic
		return nil
	})
}

// WithConcurrency sets how many handlers each subscription may run at a time:
// at least 1, the default, which keeps the order of the stream. [Concurrency]
// sets it for one subscription.
func WithConcurrency(n int) broker.Option {
	return option("WithConcurrency", func(s *settings) error {
		if n < 1 {
			return fmt.Errorf("WithConcurrency(%d): want at least 1", n)
		}
		s.concurrency = n
		return nil
	})
}

// WithAsyncWindow sets how many messages published with [Async] may wait for
// their answers: at least 1, default 1000. While that many wait for their answer, or
// for their done to be called, Publish waits for room. Called from done, it does not
// wait. A larger window is faster on a slow network, and takes more memory in an
// outage.
func WithAsyncWindow(n int) broker.Option {
	return option("WithAsyncWindow", func(s *settings) error {
		if n < 1 {
			return fmt.Errorf("WithAsyncWindow(%d): want at least 1", n)
		}
		s.window = n
		return nil
	})
}

// WithShutdownTimeout bounds how long Disconnect waits for running handlers: default
// 20s, below the 30s that Kubernetes grants a pod to stop. When it passes, the contexts
// of the handlers are cancelled, and Disconnect closes the connection and returns
// [ErrShutdownTimeout]. It waits as long for publishes without an answer. With zero, it
// does not wait.
func WithShutdownTimeout(d time.Duration) broker.Option {
	return option("WithShutdownTimeout", func(s *settings) error {
		if d < 0 {
			return fmt.Errorf("WithShutdownTimeout(%v): want 0 or more", d)
		}
		s.shutdownTimeout = d
		return nil
	})
}

// WithMaxAckExtension bounds how long the broker keeps telling the server that a
// message is still being worked on, counted from its delivery: default 15m. During that
// time the message of a slow handler, and those waiting behind it, are not delivered a
// second time. After it, the message of a handler that hangs goes to another replica
// when AckWait has passed. Zero switches the extension off.
//
// What waits behind handlers that hang goes back to the other replicas earlier:
// when no handler was started for 10 seconds, and for 20 times as long as the
// slowest handler lately took; for 30 seconds if none has returned yet. The last
// delivery that MaxDeliver permits stays, and so does what waits for its key.
func WithMaxAckExtension(d time.Duration) broker.Option {
	return option("WithMaxAckExtension", func(s *settings) error {
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
	hooks = slices.Clone(hooks)
	return option(adds, func(s *settings) error {
		s.hooks = append(slices.Clip(s.hooks), hooks...)
		for _, h := range hooks {
			if h.Err != nil {
				return fmt.Errorf("WithHooks: %w", h.Err)
			}
		}
		return nil
	})
}
