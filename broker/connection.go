package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/logger"
)

const (
	// apiTimeout bounds one request to JetStream's API; nats.go's own default.
	apiTimeout = 5 * time.Second
	// closeTimeout bounds each of flush and drain when the connection closes.
	closeTimeout = 2 * time.Second
	// writeTimeout bounds a write to the network, during which the client does
	// nothing else: no longer than a Publish waits. nats.go's default is a minute,
	// in which neither a Publish nor Disconnect could keep to its bound.
	writeTimeout = publishTimeout
)

// connection is one connection of a broker, from Connect to Disconnect, and
// everything that ends with it.
type connection struct {
	broker *jetstreamBroker
	cfg    *config // as it was at Connect
	hooks  *dispatcher
	log    logger.Logger // with the client's name as a field
	nc     *nats.Conn
	link   link
	js     jetstream.JetStream
	name   string    // by which the server knows it
	born   time.Time // what its clocks count from

	acks        *acks
	window      chan struct{} // room for publishes that nobody waits for
	completions completions   // what these have called when they are over
	streams     streamCache
	ensuring    chan struct{} // held while a stream is looked up or created

	changed    atomic.Pointer[chan struct{}] // closed and replaced when the connection is lost or restored
	server     atomic.Pointer[string]        // URL of the last one, without credentials
	maxPayload atomic.Int64                  // of the last one, in bytes
	lines      limiter
	lossSaid   bool // in the log; only the client's callbacks use it
	told       told
	closed     chan struct{} // closed when nc is
	expected   atomic.Bool   // the close is our own doing
	publishes  gate
	subscribes gate

	mu        sync.Mutex
	subs      map[*subscription]struct{}
	noSubs    bool // shutting down: no new subscriptions
	calls     map[*apiCall]struct{}
	regaining bool      // a reconnect by regain is to come
	regained  time.Time // when the latest was
	refusals  uint64    // of inboxes, in a row
}

// Connect connects to the server and checks that it has JetStream. It is
// idempotent and waits for a Disconnect under way. Subscriptions made before a
// Disconnect do not come back: subscribe again. Errors: [ErrInvalidConfig],
// [ErrJetStreamUnavailable], [ErrPermission] for a user without an inbox, one that has
// no sentinel for a server before 2.10, or the client's own for servers that cannot be reached or refuse the credentials.
func (b *jetstreamBroker) Connect() error {
	for {
		b.mu.Lock()
		if b.cfgErr != nil {
			defer b.mu.Unlock()
			return b.cfgErr
		}
		dialing, closing := b.dialing, b.closing
		if c := b.conn.Load(); c != nil && closing == nil {
			b.mu.Unlock()
			if !c.nc.IsClosed() {
				b.states.await(c.toldLast(), closeTimeout) // of another Connect
				return nil
			}
			// Closed for good by the client, by a limit the user has set. Tidy
			// up and start again.
			_ = b.Disconnect()
			continue
		}
		if closing == nil && dialing == nil {
			b.dialing = make(chan struct{})
			cfg := b.cfg.Load()
			b.mu.Unlock()
			return b.dial(cfg)
		}
		b.mu.Unlock()
		if dialing != nil {
			<-dialing
			continue
		}
		if closing.calledFromHandler() {
			return fmt.Errorf("jetstream: connect: %w: the broker is shutting down and waits for the handler, or the hook, that calls Connect", ErrNotConnected)
		}
		<-closing.done
	}
}

func (b *jetstreamBroker) dial(cfg *config) error {
	c, err := connect(b, cfg)
	b.mu.Lock()
	if err == nil {
		b.conn.Store(c)
	}
	close(b.dialing)
	b.dialing = nil
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("jetstream: connect to %s: %w", redacted(cfg.servers), err)
	}
	if len(c.hooks.consumerState) > 0 {
		go c.monitor()
	}
	c.begin()
	b.states.await(c.toldLast(), closeTimeout)
	return nil
}

func connect(b *jetstreamBroker, cfg *config) (*connection, error) {
	c := &connection{
		broker:   b,
		born:     time.Now(),
		cfg:      cfg,
		log:      cfg.log,
		hooks:    cfg.dispatch,
		ensuring: make(chan struct{}, 1),
		window:   make(chan struct{}, cfg.window),
		closed:   make(chan struct{}),
		subs:     make(map[*subscription]struct{}),
		calls:    make(map[*apiCall]struct{}),
		acks:     newAcks(),
	}
	changed := make(chan struct{})
	c.changed.Store(&changed)
	o, err := c.natsOptions()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidConfig, err)
	}
	if c.nc, err = o.Connect(); err != nil {
		return nil, err
	}
	c.link.nc = c.nc
	if err := c.open(); err != nil {
		c.expected.Store(true)
		c.nc.Close()
		return nil, err
	}
	return c, nil
}

// open sets up what the connection needs on the server.
func (c *connection) open() error {
	c.arrivedAt(c.nc)
	var err error
	if c.js, err = jetstream.New(c.nc, jetstream.WithDefaultTimeout(apiTimeout)); err != nil {
		return err
	}
	if c.link.connected() { // it may come later, with nats.RetryOnFailedConnect
		if err := c.checkVersion(); err != nil {
			return err
		}
		if err := c.checkJetStream(); err != nil {
			return err
		}
	}
	return c.acks.open(c.nc)
}

// natsOptions builds the client's options: ours, then the user's, whose
// callbacks are called after ours.
func (c *connection) natsOptions() (nats.Options, error) {
	o := nats.GetDefaultOptions()
	o.Servers = c.cfg.servers
	o.Name = c.cfg.clientName
	o.MaxReconnect = -1           // endless: a broker that gives up is an outage of its own
	o.IgnoreAuthErrorAbort = true // or the client gives up after two refusals, while credentials rotate
	o.RetryOnFailedConnect = false
	o.FlusherTimeout = writeTimeout
	// What could not be written is gone, be it the request for messages or a
	// subscription: a new connection begins with all of those.
	o.ReconnectOnFlusherError = true
	if c.cfg.opts.TLSConfig != nil {
		o.TLSConfig, o.Secure = c.cfg.opts.TLSConfig, true
	}
	if c.cfg.opts.Secure {
		o.Secure = true
	}
	for _, opt := range c.cfg.natsOptions {
		if opt == nil {
			continue
		}
		if err := opt(&o); err != nil {
			return o, fmt.Errorf("WithNATSOptions: %w", err)
		}
	}
	c.name = o.Name
	c.log = c.log.Fields(fields{"client": c.name})
	user := o
	o.NoCallbacksAfterClientClose = false // Disconnect waits for the last one
	silent := func() bool { return user.NoCallbacksAfterClientClose && c.expected.Load() }
	o.ConnectedCB = func(nc *nats.Conn) {
		c.onConnect(nc)
		if user.ConnectedCB != nil {
			user.ConnectedCB(nc)
		}
	}
	o.DisconnectedErrCB = func(nc *nats.Conn, err error) {
		c.onDisconnect(nc, err)
		switch { // as the client does, which calls one of the two only
		case silent():
		case user.DisconnectedErrCB != nil:
			user.DisconnectedErrCB(nc, err)
		case user.DisconnectedCB != nil:
			user.DisconnectedCB(nc)
		}
	}
	o.ReconnectedCB = func(nc *nats.Conn) {
		c.onReconnect(nc)
		if user.ReconnectedCB != nil {
			user.ReconnectedCB(nc)
		}
	}
	o.ClosedCB = func(nc *nats.Conn) {
		c.onClose(nc)
		if user.ClosedCB != nil && !silent() {
			user.ClosedCB(nc)
		}
	}
	o.AsyncErrorCB = func(nc *nats.Conn, sub *nats.Subscription, err error) {
		c.onAsyncError(nc, sub, err)
		if user.AsyncErrorCB != nil {
			user.AsyncErrorCB(nc, sub, err)
		}
	}
	return o, nil
}

// What the server's text has about a subject that the user may not subscribe to,
// or publish to, before the subject.
const (
	subscriptionViolation = "Subscription to "
	publishViolation      = "Publish to "
)

// checkVersion refuses servers before 2.10, which forget the metadata of streams and
// consumers (ADR-33): by that the broker knows its own, and with [WithDeadLetter] after
// how many deliveries to give up. A server that is not connected, or does not say a
// version, passes.
func (c *connection) checkVersion() error {
	version := c.nc.ConnectedServerVersion()
	var major, minor int
	if n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor); n < 2 || major > 2 || major == 2 && minor >= 10 {
		return nil
	}
	return fmt.Errorf("the nats-server at %s is of version %s, which forgets the metadata of streams and consumers: use 2.10 or later", c.serverURL(), version)
}

// checkJetStream tells a server without JetStream from one that works. A user
// without permission for the look-up, or a cluster that elects a leader just
// now, is no reason to fail: the first use will tell.
func (c *connection) checkJetStream() error {
	ctx, cancel := context.WithTimeout(context.Background(), apiTimeout)
	defer cancel()
	err := c.api(ctx, "INFO", func(ctx context.Context) error {
		_, err := c.js.AccountInfo(ctx)
		return err
	})
	if errors.Is(err, ErrJetStreamUnavailable) {
		return err
	}
	if errors.Is(err, ErrPermission) && strings.Contains(err.Error(), subscriptionViolation) {
		return fmt.Errorf("no answer would ever arrive: allow the user to subscribe to its inbox, or choose another with nats.CustomInboxPrefix: %w", err)
	}
	if err != nil {
		c.logf(logger.WarnLevel, "could not verify that JetStream is enabled: %v", err)
	}
	return nil
}

// The callbacks get the client's connection as an argument: the first may come
// before connect has stored it.

// onConnect wakes those that wait since Connect, which does not wait with
// nats.RetryOnFailedConnect. It may come when there are publishes already, and no
// connection before was theirs.
func (c *connection) onConnect(nc *nats.Conn) {
	c.arrivedAt(nc)
	c.wake()
	c.tell(StateConnected, c.serverURL(), nil)
}

func (c *connection) onDisconnect(nc *nats.Conn, err error) {
	if c.expected.Load() || nc.IsClosed() {
		return
	}
	if why := c.acks.undeafen(); err == nil {
		err = why // it is regain's doing
	}
	c.signal()
	// Where the connection comes and goes many times a second, one line tells of
	// many losses, and those that are not told of have no end to tell of either.
	more, ok := c.lines.allow("lost")
	if c.lossSaid = ok; ok {
		c.logf(logger.WarnLevel, "connection lost, reconnecting: %v%s", err, more)
	}
	c.tell(StateDisconnected, "", err)
}

func (c *connection) onReconnect(nc *nats.Conn) {
	c.arrivedAt(nc)
	url := c.serverURL()
	c.signal()
	if c.lossSaid {
		c.logf(logger.InfoLevel, "reconnected to %s", url)
	}
	c.tell(StateReconnected, url, nil)
}

func (c *connection) onClose(nc *nats.Conn) {
	c.signal()
	close(c.closed) // before the hooks, which may call Connect
	if c.expected.Load() {
		return
	}
	err := nc.LastError()
	c.logf(logger.ErrorLevel, "connection closed for good, its subscriptions end: %v; call Connect and subscribe again", err)
	c.tell(StateClosed, "", err)
	for _, s := range c.subscriptions() {
		go func() { _ = s.Unsubscribe() }()
	}
}

// onAsyncError is told of permission violations, which otherwise look like
// timeouts to whoever waits for an answer.
func (c *connection) onAsyncError(nc *nats.Conn, sub *nats.Subscription, err error) {
	if c.expected.Load() {
		return
	}
	if errors.Is(err, nats.ErrPermissionViolation) {
		if aboutInbox(nc, err) {
			c.acks.deafen(err)
			c.regain(nc)
		}
		c.failCalls(nc, err)
		c.acks.refuse(err)
		for _, s := range c.subscriptions() {
			s.refuse(err)
		}
	}
	if more, ok := c.lines.allow("async"); ok {
		f := fields{"server": c.serverURL()}
		if sub != nil {
			f["subject"] = sub.Subject
		}
		c.log.Fields(f).Logf(logger.WarnLevel, "jetstream: %v%s", err, more)
	}
}

// aboutInbox reports whether the server refuses a subscription to an inbox, or has ended
// it, as the permission was taken away. There is no permission for one of them alone:
// those for publishes, for the client's requests and for fetches look the same.
func aboutInbox(nc *nats.Conn, violation error) bool {
	subject, ok := refusedSubject(violation, subscriptionViolation)
	prefix := nats.InboxPrefix
	if nc.Opts.InboxPrefix != "" {
		prefix = nc.Opts.InboxPrefix + "."
	}
	return ok && strings.HasPrefix(subject, prefix)
}

// regain asks the server again for the subscriptions to inboxes that it has refused. It
// does not say when they are permitted, and the client subscribes again only on a new
// connection, so there is one after pauses that grow.
func (c *connection) regain(nc *nats.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.regaining || !nc.Opts.AllowReconnect { // the user wants none
		return
	}
	if time.Since(c.regained) > 2*maxBackoff {
		c.refusals = 0 // they were permitted meanwhile
	}
	c.refusals++
	c.regaining = true
	go c.reconnectIn(nc, backoffDelay(c.refusals))
}

func (c *connection) reconnectIn(nc *nats.Conn, delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.closed:
		return
	}
	// To close a connection takes away what the server has not read, such as acks.
	_ = nc.FlushTimeout(closeTimeout)
	c.mu.Lock()
	c.regaining, c.regained = false, time.Now()
	c.mu.Unlock()
	if !c.expected.Load() && nc.IsConnected() { // else there is a new one soon
		_ = nc.ForceReconnect()
	}
}

// arrivedAt remembers the server, as the client does not say what it has lost, and how
// much it accepts.
func (c *connection) arrivedAt(nc *nats.Conn) {
	c.maxPayload.Store(nc.MaxPayload())
	if url := nc.ConnectedUrl(); url != "" {
		url = withoutCredentials(url)
		c.server.Store(&url)
	}
}

// accepts reports whether the server takes a message of that size, and what it takes at
// most.
func (c *connection) accepts(size int) (limit int64, ok bool) {
	if limit = c.maxPayload.Load(); int64(size) <= limit {
		return limit, true // or the client refuses it later
	}
	// It takes the client's lock to see whether it is more by now. With
	// nats.RetryOnFailedConnect it may not be known yet.
	limit = c.nc.MaxPayload()
	return limit, limit <= 0 || int64(size) <= limit
}

// serverURL returns the server of the connection, the last one after a loss.
func (c *connection) serverURL() string {
	if url := c.server.Load(); url != nil {
		return *url
	}
	return redacted(c.cfg.servers)
}

// logf writes a line about the connection.
func (c *connection) logf(level logger.Level, format string, args ...any) {
	c.log.Fields(fields{"server": c.serverURL()}).Log(level, "jetstream: "+fmt.Sprintf(format, args...))
}

// signal wakes all that wait, so that they look at the connection, and ends the tries
// of publishes, whose answers are lost with it.
func (c *connection) signal() {
	c.wake()
	c.acks.interrupt()
}

// wake wakes all that wait for the connection.
func (c *connection) wake() {
	next := make(chan struct{})
	close(*c.changed.Swap(&next))
}

// stateChange returns a channel that is closed at the next change of the
// connection's state.
func (c *connection) stateChange() <-chan struct{} { return *c.changed.Load() }

func (c *connection) subscriptions() []*subscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	subs := make([]*subscription, 0, len(c.subs))
	for s := range c.subs {
		subs = append(subs, s)
	}
	return subs
}

// awaitPoll is how often await looks at the connection by itself: the client tells of
// its states on one goroutine, and one of the user's own callbacks may hold that up.
const awaitPoll = 50 * time.Millisecond

// await waits until the connection is up.
func (c *connection) await(ctx context.Context) error {
	poll := time.NewTicker(awaitPoll)
	defer poll.Stop()
	for {
		changed := c.stateChange()
		switch {
		case ctx.Err() != nil: // before each question, as the client may take its time
			return ctx.Err()
		case c.link.connected():
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case c.nc.IsClosed():
			return nats.ErrConnectionClosed
		}
		select {
		case <-changed:
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// outage is the error of those who could not wait any longer for await.
func outage(err error) error {
	return fmt.Errorf("%w: %w and did not come back in time: %w", ErrNotConnected, errConnectionLost, err)
}

// apiCall is a request to JetStream's API that waits for its answer.
type apiCall struct {
	name   string // what follows $JS.API. in its subject, as far as known
	cancel context.CancelCauseFunc
}

// sentTo reports whether the call may be the request with that subject.
func (call *apiCall) sentTo(subject string) bool {
	rest, ok := strings.CutPrefix(subject, "$JS.API."+call.name)
	return ok && (rest == "" || rest[0] == '.')
}

// api runs a request to JetStream's API and makes its errors speak: bounded in
// time, a permission violation at once instead of a timeout, and
// ErrJetStreamUnavailable where nobody answers.
func (c *connection) api(ctx context.Context, name string, request func(context.Context) error) error {
	ctx, cancelTimeout := context.WithTimeout(ctx, apiTimeout)
	defer cancelTimeout()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	call := &apiCall{name: name, cancel: cancel}
	c.mu.Lock()
	c.calls[call] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.calls, call)
		c.mu.Unlock()
	}()

	// The client would keep the request and send it after an outage, when nobody
	// waits for it any more: it would leave a consumer that nobody knows of.
	if err := c.await(ctx); err != nil {
		return outage(err)
	}
	if err := c.acks.deafness(); err != nil {
		return err
	}
	err := request(ctx)
	if cause := context.Cause(ctx); cause != nil && err != nil && errors.Is(cause, ErrPermission) {
		return cause
	}
	return apiError(err)
}

// look is api for a question, which is asked again: one that finds no leader is
// never answered, and there is none for a moment where something was just made.
func (c *connection) look(ctx context.Context, name string, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	for patience := lookUpTimeout; ; patience *= 2 {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			return c.api(ctx, name, question)
		}()
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

// failCalls ends the calls that a permission violation is about.
func (c *connection) failCalls(nc *nats.Conn, violation error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	subject, _ := refusedSubject(violation, publishViolation)
	for call := range c.calls {
		if call.sentTo(subject) || aboutInbox(nc, violation) {
			call.cancel(fmt.Errorf("%w: %w", ErrPermission, violation))
		}
	}
}

// apiError adds this package's sentinel to an error of the JetStream API.
func apiError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled),
		errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount),
		errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: %w", ErrJetStreamUnavailable, err)
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
	return err
}

// gate counts work under way and lets a shutdown wait for it.
type gate struct {
	mu     sync.Mutex
	n      int
	closed bool
	empty  chan struct{}
}

// enter reports false once the gate is closed.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.n++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
	if g.closed && g.n == 0 {
		close(g.empty)
	}
}

// inside returns how much work is under way.
func (g *gate) inside() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}

// close lets nobody in any more and returns a channel that is closed when all
// have left. It is called once.
func (g *gate) close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.empty = make(chan struct{})
	if g.n == 0 {
		close(g.empty)
	}
	return g.empty
}

func redacted(urls []string) string {
	out := make([]string, len(urls))
	for i, u := range urls {
		out[i] = withoutCredentials(u)
	}
	return strings.Join(out, ", ")
}
