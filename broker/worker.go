package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"
)

// work is the life of one worker: take a message, handle it, settle it, repeat
// until the subscription is stopped.
func (s *subscription) work(slot int) {
	ended := false
	defer func() {
		if ended {
			s.leave()
			return
		}
		// A panic of ours, or a handler that ended its goroutine: its message is
		// settled already. The subscription must live on.
		if r := recover(); r != nil {
			s.logSome(logger.ErrorLevel, nil, "worker panicked, restarting it: %v\n%s", r, debug.Stack())
		}
		go s.work(slot)
	}()
	s.mu.Lock()
	s.ids[slot] = goroutineID()
	s.mu.Unlock()
	for {
		e := s.next(slot)
		if e == nil {
			ended = true
			return
		}
		s.handle(slot, e)
	}
}

func (s *subscription) leave() {
	gaveBack := false
	defer func() {
		if !gaveBack { // a hook has ended the goroutine
			go s.leave()
		}
	}()
	s.giveBackLate()
	gaveBack = true
	s.mu.Lock()
	s.workers--
	last := s.workers == 0
	s.mu.Unlock()
	if last {
		s.finish()
	}
}

// next returns the next message in order, fetching if there is none, or nil
// when the subscription is stopped.
func (s *subscription) next(slot int) *event {
	for {
		e, refused := s.take(slot)
		if e != nil && refused == nil {
			return e
		}
		if e != nil {
			s.skip(e, refused)
			continue
		}
		select {
		case s.filling <- struct{}{}:
		case <-s.life.Done():
			return nil
		}
		if !s.fill() {
			return nil
		}
	}
}

// Why a message that was fetched is not handled.
var (
	errExpired      = errors.New("its ack deadline passed while it waited, so it is delivered again")
	errBeingHandled = errors.New("it is a second delivery of one that is being handled: AckWait has been shortened, or extending it has failed")
	errHandled      = errors.New("it is a second delivery of one that was handled: its ack was lost, came too late, or went to a consumer that is gone")
	errTerminated   = errors.New("it is a second delivery of one that was discarded, or is a dead letter: its termination was lost, or came too late")
)

// take starts the first of the waiting messages, or says why it is not to be
// handled.
func (s *subscription) take(slot int) (e *event, refused error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 || s.isStopped() {
		return nil, nil
	}
	e = s.newEvent(s.waiting[0])
	s.waiting[0] = item{} // let go of the message
	if s.waiting = s.waiting[1:]; len(s.waiting) == 0 {
		s.waiting = s.room[:0]
	}
	if s.pull.early(s.consumer, len(s.waiting)) && s.conn.link.connected() {
		// What goes wrong comes again with the next request.
		_ = s.pull.request(s.consumer, len(s.waiting))
	}
	if s.mayRepeat(e) {
		if refused = s.repeated(e); refused != nil {
			return e, refused
		}
	}
	e.outcome.began = time.Since(e.received)
	// The server is delivering it to somebody else, unless it has given it up;
	// it heeds the ack all the same.
	if s.consumer.expired(e.meta.numDelivered, e.outcome.began-e.extended) && !s.consumer.isLast(e.meta.numDelivered) {
		s.owe(e)
		return e, errExpired
	}
	s.running[slot] = e
	s.last = max(s.last, e.meta.streamSequence)
	return e, nil
}

// skip is the end of a message that is not handled.
func (s *subscription) skip(e *event, why error) {
	switch {
	case errors.Is(why, errHandled):
		_ = s.send(e, ResultAck, 0, false)
	case errors.Is(why, errTerminated):
		_ = s.send(e, ResultTerm, 0, false)
	}
	emit(s.hooks, s.hooks.skipped, e.ctx, Skipped{Delivery: e.delivery()})
	if more, ok := s.lines.allow(why.Error()); ok {
		s.log(logger.WarnLevel, e, "skipped a message: %v%s", why, more)
		if !errors.Is(why, errExpired) {
			s.refresh() // of an AckWait that has been shortened
		}
	}
}

// fill waits until messages have been fetched. It reports false when the
// subscription is stopped. The caller holds s.filling; fill releases it.
func (s *subscription) fill() bool {
	defer func() { <-s.filling }()
	for {
		if s.setback.err != nil && !s.recovered() {
			return !s.isStopped()
		}
		s.lookAtFloor()
		changed := s.conn.stateChange() // before looking at the state
		m, silence, err := s.ask()
		if err == nil && m == nil {
			if silence == 0 {
				return true // another worker was quicker
			}
			m, err = s.await(changed, silence)
		}
		if m != nil {
			a := s.collect(m)
			if err = a.err; err == nil && a.alive {
				s.healthy()
			}
		}
		if s.isStopped() {
			return false
		}
		if err != nil {
			s.failed(err)
		}
	}
}

// ask makes sure that a request is under way, unless messages wait already. It
// returns the first message that has come, or how long none may come.
func (s *subscription) ask() (m *nats.Msg, silence time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) > 0 || s.isStopped() {
		s.fetching = false
		return nil, 0, nil
	}
	s.fetching = true
	if m = s.arrived(); m != nil {
		return m, 0, nil
	}
	switch {
	case s.conn.link.connected():
	case s.conn.nc.IsClosed():
		return nil, 0, nats.ErrConnectionClosed
	default:
		return nil, 0, errConnectionLost
	}
	if s.pull.outlived() { // while the workers were busy, perhaps
		s.pull.abandon()
	}
	if s.pull.open == 0 || s.pull.early(s.consumer, 0) {
		err = s.pull.request(s.consumer, 0)
	}
	return nil, s.pull.silence(), err
}

// floorInterval is how old the ack floor of a shared consumer may become: what was
// acked since comes again if the consumer is lost.
const floorInterval = 5 * time.Second

// lookAtFloor asks now and then how far a consumer for new messages is that others
// may be served with, too: if it is lost, the next one begins there.
func (s *subscription) lookAtFloor() {
	cs := s.currentConsumer()
	if cs.ephemeral || !cs.ours || !cs.goesOn() || time.Since(s.looked) < floorInterval || !s.conn.link.connected() {
		return
	}
	s.looked = time.Now()
	s.refresh()
}

// await waits for a message. It returns none when the connection has changed or
// the subscription is stopped.
func (s *subscription) await(changed <-chan struct{}, silence time.Duration) (*nats.Msg, error) {
	s.silent.Reset(silence)
	defer s.silent.Stop()
	select {
	case m := <-s.pull.messages:
		return m, nil
	case <-changed:
		return nil, nil // the request may have died with the connection
	case <-s.silent.C:
		return nil, jetstream.ErrNoHeartbeat
	case err := <-s.trouble:
		return nil, err
	case <-s.life.Done():
		return nil, nil
	}
}

// arrivals are what a look into the inbox has brought.
type arrivals struct {
	messages int
	bytes    int
	last     string // reply subject of the last message
	alive    bool   // the server has given a sign of life
	err      error  // the request under way has failed
}

// collect takes in a message from the inbox and all that wait behind it.
func (s *subscription) collect(m *nats.Msg) arrivals {
	s.mu.Lock()
	a := s.takeIn(m)
	s.mu.Unlock()
	s.report(a)
	return a
}

// takeIn is collect for callers that hold s.mu.
func (s *subscription) takeIn(m *nats.Msg) arrivals {
	var a arrivals
	now := time.Now()
	for ; m != nil; m = s.arrived() {
		delivery, err := s.pull.accept(m)
		switch {
		case delivery && !covers(s.Subscription.Topic, m.Subject):
			a.err = s.refuseStray(m)
		case delivery:
			s.waiting = append(s.waiting, item{msg: m, received: now})
			a.messages++
			a.bytes += m.Size()
			a.last = m.Reply
		case err == nil || errors.Is(err, errBatchDone):
			a.alive = true
			if s.pull.idle > 0 && len(s.waiting) == 0 {
				s.waiting, s.room = nil, nil
			}
		case errors.Is(err, jetstream.ErrMaxBytesExceeded):
			cs := s.consumer
			a.err = fmt.Errorf("%w: the next message is larger than MaxRequestMaxBytes, %d, of consumer %s of stream %s: raise it", err, cs.cfg.MaxRequestMaxBytes, cs.name, cs.stream.name)
		default:
			a.err = err
		}
	}
	if cap(s.waiting) > cap(s.room) {
		s.room = s.waiting
	}
	if a.messages > 0 {
		a.alive = true
		s.pull.batch.arrived(now)
		s.fetching = false
		s.known = now
		s.armKeeper()
	}
	return a
}

// refuseStray gives back a message that was not subscribed to: somebody has
// changed the consumer's filter. It is for those who look into that, not for
// this handler, so it comes back slowly.
func (s *subscription) refuseStray(m *nats.Msg) error {
	meta, _ := parseMetadata(m.Reply)
	_ = s.conn.nc.Publish(m.Reply, s.consumer.nak(meta.numDelivered, maxBackoff))
	return fmt.Errorf("%w: consumer %s of stream %s has been changed and delivers %s", ErrConsumerConflict, s.consumer.name, s.consumer.stream.name, m.Subject)
}

// report tells the hooks what came.
func (s *subscription) report(a arrivals) {
	if a.messages > 0 && len(s.hooks.fetched) > 0 {
		meta, _ := parseMetadata(a.last)
		emit(s.hooks, s.hooks.fetched, s.base, Fetched{Subscription: s.identity(), Messages: a.messages, Bytes: a.bytes, NumPending: meta.pending})
	}
}

// healthy ends a streak of failures: messages came, or a word from the server
// that there are none.
func (s *subscription) healthy() {
	if s.failures == 0 {
		return
	}
	level := logger.InfoLevel
	if s.lastSaid == "" { // nobody has heard of them
		level = logger.DebugLevel
	}
	s.log(level, nil, "fetching again after %d failures", s.failures)
	s.failures, s.lastSaid = 0, ""
	emit(s.hooks, s.hooks.backoff, s.base, Backoff{Subscription: s.identity()})
}

// setback is a failed fetch that the subscription has not recovered from. It is kept
// from one fill to the next, as messages in hand do not wait until it has.
type setback struct {
	err     error // nil: there is none
	until   time.Time
	changed <-chan struct{} // of the connection, since the failure
	down    bool            // the connection was seen down
}

// failed reports a failed fetch. The next one is for recovered to permit.
func (s *subscription) failed(err error) {
	s.mu.Lock()
	s.pull.abandon()
	s.mu.Unlock()
	s.failures++
	delay := backoffDelay(s.failures)
	s.logFetchError(err, delay)
	s.setback = setback{
		err:     err,
		until:   time.Now().Add(delay),
		changed: s.conn.stateChange(),
		down:    errors.Is(err, errConnectionLost), // and may be back already
	}
	defer func() { // also if a hook ends the goroutine
		emit(s.hooks, s.hooks.backoff, s.base, Backoff{Subscription: s.identity(), Attempt: int(s.failures), Delay: delay})
	}()
	emit(s.hooks, s.hooks.fetchError, s.base, FetchError{Subscription: s.identity(), Err: err, Reason: Reason(err)})
}

// recovered pauses after a failed fetch, and puts right what it may. It reports
// false when the subscription is stopped, and when there are messages to handle
// first: their ack deadlines do not wait for the pause to end. The next call
// goes on with it.
func (s *subscription) recovered() bool {
	for s.setback.err != nil {
		if !s.pauseOrCollect() {
			return false
		}
		select {
		case more := <-s.trouble: // about what has failed: the next request is another one
			s.log(logger.DebugLevel, nil, "refused meanwhile: %v", more)
		default:
		}
		cause := s.setback.err
		s.setback = setback{} // before a hook may end the goroutine
		err := s.heal(cause)
		if s.isStopped() {
			return false
		}
		if err != nil {
			s.failed(err)
		}
	}
	return true
}

// pauseOrCollect is the pause after a failed fetch. It reports false when the
// subscription is stopped, and when messages wait or have come, of requests from
// before the failure.
func (s *subscription) pauseOrCollect() bool {
	s.mu.Lock()
	s.fetching = len(s.waiting) == 0
	waits := !s.fetching
	s.mu.Unlock()
	if waits {
		return false
	}
	for {
		m, over := s.pause(time.Until(s.setback.until), s.setback.changed, s.setback.down, s.pull.messages)
		if m == nil {
			return over
		}
		if s.collect(m).messages > 0 { // or an error, which is of no request that counts
			return false
		}
	}
}

// pause waits for d, or until the connection is back, which may have been seen
// down, or until a message has come. It returns the message, or false when the
// subscription is stopped.
func (s *subscription) pause(d time.Duration, changed <-chan struct{}, down bool, inbox <-chan *nats.Msg) (m *nats.Msg, over bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		if down && s.conn.link.connected() {
			return nil, !s.isStopped()
		}
		select {
		case <-timer.C:
			return nil, true
		case <-s.life.Done():
			return nil, false
		case <-changed:
			changed, down = s.conn.stateChange(), true
		case m := <-inbox:
			return m, false
		}
	}
}

// heal puts right what a failed fetch may have been about: it makes the
// consumer again, and its stream, if they were made by this broker and are
// gone. It returns what stands in the way of fetching.
func (s *subscription) heal(cause error) error {
	if !s.conn.link.connected() {
		return nil // fetching tells
	}
	switch {
	case errors.Is(cause, jetstream.ErrConsumerLeadershipChanged), errors.Is(cause, jetstream.ErrServerShutdown), errors.Is(cause, errConnectionLost):
		return nil // passes by itself
	}
	ctx, cancel := context.WithTimeout(s.life, subscribeTimeout)
	defer cancel()

	cs := s.currentConsumer()
	info, err := s.conn.consumerInfo(ctx, cs.stream.name, cs.name)
	switch {
	case err == nil:
		topic := s.Subscription.Topic
		if err := usable(info, s.cfg, topic); err != nil {
			return err
		}
		found := consumerOf(info, cs.stream)
		if !found.created.Equal(cs.created) { // somebody was quicker, and has made the stream, too, perhaps
			if found.stream, err = s.conn.streamInfo(ctx, cs.stream.name); err != nil {
				return err
			}
			if !filters(info.Config, found.stream, topic) && cs.ours && !s.cfg.othersConsumers && s.Queue != "" {
				break // for another topic of the queue
			}
			s.expectCopies(found)
		}
		s.rebind(found)
		if !filters(info.Config, found.stream, topic) {
			return fmt.Errorf("%w: consumer %s of stream %s has been changed and now has the filter %s", ErrConsumerConflict, cs.name, cs.stream.name, describeFilter(info.Config))
		}
		s.learned(info.NumPending, info.NumAckPending)
		return nil
	case errors.Is(err, ErrJetStreamUnavailable):
		return err // a server that starts up says so, too
	case !errors.Is(err, jetstream.ErrConsumerNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound):
		return err
	case s.cfg.othersConsumers:
		return fmt.Errorf("consumer %s of stream %s is gone, and with WithExistingConsumers the broker creates none: create it again: %w", cs.name, cs.stream.name, err)
	case !cs.ours:
		return fmt.Errorf("consumer %s of stream %s is gone and was not made by this broker: create it again: %w", cs.name, cs.stream.name, err)
	}
	again, err := s.makeAgain(ctx, cs)
	if err != nil {
		return err
	}
	s.rebind(again)
	renamed := ""
	if again.name != cs.name {
		renamed = ", as " + again.name
	}
	s.log(logger.WarnLevel, nil, "consumer %s of stream %s was deleted and has been made again%s", cs.name, cs.stream.name, renamed)
	return nil
}

// makeAgain makes the consumer again, and its stream if that is gone, too. For a
// queue the rule of [connection.bindDurable] holds as it did at first: another
// replica may have been quicker, and may have given the topics each other's names.
func (s *subscription) makeAgain(ctx context.Context, cs *consumer) (*consumer, error) {
	topic := s.Subscription.Topic
	st, err := s.conn.streamInfo(ctx, cs.stream.name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if s.cfg.othersStreams {
			return nil, fmt.Errorf("%w: stream %s is gone, and with WithExistingStreams the broker creates none: create it again", ErrStreamNotFound, cs.stream.name)
		}
		if !cs.stream.ours {
			return nil, fmt.Errorf("%w: stream %s is gone and was not made by this broker: create it again", ErrStreamNotFound, cs.stream.name)
		}
		if err := s.conn.forgetStream(ctx, cs.stream); err != nil {
			return nil, err
		}
		st, err = s.conn.ensureStream(ctx, s.cfg, topic)
	}
	if err != nil {
		return nil, err
	}
	if !coversAny(st.subjects, topic) || st.name != cs.stream.name {
		return nil, fmt.Errorf("%w: the topic has moved to stream %s; subscribe again", ErrStreamMismatch, st.name)
	}
	s.expectCopies(cs)
	cc := s.resumed(cs, st)
	var again *consumer
	if s.Queue == "" {
		again, _, err = s.conn.createConsumer(ctx, st, topic, s.Queue, cc)
	} else {
		again, _, err = s.conn.bindDurable(ctx, s.cfg, st, topic, s.Queue, cc)
	}
	return again, err
}

// resumed is the configuration with which a consumer is made again: one for new
// messages goes on where it was, as what came while it was gone is new, too.
func (s *subscription) resumed(cs *consumer, st *stream) jetstream.ConsumerConfig {
	cc := cs.cfg
	if !cs.goesOn() {
		return cc
	}
	if !st.created.Equal(cs.stream.created) {
		// All of another stream's messages came after the last of the former's.
		// A start sequence has that go on, too, if it is lost.
		cc.DeliverPolicy, cc.OptStartSeq = jetstream.DeliverByStartSequencePolicy, 1
		return cc
	}
	cc.DeliverPolicy, cc.OptStartSeq = jetstream.DeliverByStartSequencePolicy, max(s.resumeAt(), cc.OptStartSeq)
	return cc
}

// adopt takes over what an operator has changed of the consumer, and how far it
// is, if that is still the one in use.
func (s *subscription) adopt(cs *consumer, info *jetstream.ConsumerInfo) {
	changed := cs.told(info)
	s.mu.Lock()
	if s.consumer != cs {
		s.mu.Unlock()
		return
	}
	s.consumer = changed
	if s.keeping && changed.ackWait() < cs.ackWait() {
		s.keeper.Reset(changed.ackWait() / 3)
	}
	s.mu.Unlock()
	if changed.byServer && (!cs.byServer || changed.limit < cs.limit) {
		s.log(logger.WarnLevel, nil, "MaxDeliver of consumer %s of stream %s is %d now: what has failed as often already stays in the stream and is not delivered again", cs.name, cs.stream.name, changed.limit)
	}
}

func (s *subscription) rebind(cs *consumer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !cs.stream.created.Equal(s.consumer.stream.created) {
		s.last, s.again, s.owedFrom = 0, 0, 0 // of another stream, which counts anew
		clear(s.owed)
	}
	s.consumer = cs
	if id := s.identity(); id.Consumer != cs.name {
		id.Consumer = cs.name
		s.renamed.Store(&id)
	}
}

// quietly are failures that belong to the ordinary life of a cluster.
func quietly(err error) bool {
	return errors.Is(err, jetstream.ErrConsumerLeadershipChanged) || errors.Is(err, jetstream.ErrServerShutdown)
}

// logFetchError warns of each kind of failure once per streak.
func (s *subscription) logFetchError(err error, delay time.Duration) {
	const text = "fetch failed, next try in %v: %v%s"
	level, more := logger.DebugLevel, ""
	if !quietly(err) && err.Error() != s.lastSaid {
		if m, ok := s.lines.allow(text); ok { // or the next failure tells
			level, more, s.lastSaid = logger.WarnLevel, m, err.Error()
		}
	}
	s.log(level, nil, text, delay, err, more)
}

// outcome is what became of a handler's run.
type outcome struct {
	lag      time.Duration // from the message's storing to its handler
	began    time.Duration // since the message was received
	err      error
	panicked *PanicError
	returned bool
}

// handle runs the handler on a message and settles it.
func (s *subscription) handle(slot int, e *event) {
	if e.meta.streamSequence == 0 {
		s.logSome(logger.WarnLevel, nil, "delivery with the reply subject %q: %v", shorten(e.msg.Reply), errNotAckSubject)
	}
	header, traced := incomingHeader(e.msg.Header)
	e.message = broker.Message{Header: header, Body: e.msg.Data}
	s.keepBody(slot, e)
	defer s.conclude(slot, e) // also after a panic or Goexit
	o := &e.outcome
	o.lag = max(time.Duration(e.received.UnixNano()-e.meta.storedAt)+o.began, 0)
	listened := len(s.hooks.handleStart) > 0
	if listened {
		e.ctx = start(s.hooks, s.hooks.handleStart, e.ctx, HandleStart{Delivery: e.delivery(), Header: e.message.Header, Lag: o.lag})
		o.began = time.Since(e.received) // the handler's time is its own
	}
	if traced || listened {
		spellForGoMicro(e.message.Header)
	}
	switch {
	case s.usedUp(e):
		o.err = errUsedUp
	case s.conn.broker.running.wanted.Load():
		s.handleFindable(e)
	default:
		o.err = s.handler(e)
	}
	o.returned = true
}

// conclude is the second half of handle, deferred so that it also runs when the
// handler did not return.
func (s *subscription) conclude(slot int, e *event) {
	o := &e.outcome
	if !o.returned {
		value := recover()
		o.panicked = &PanicError{Value: value, Stack: debug.Stack(), Goexit: value == nil}
		o.err = o.panicked
	}
	h := Handled{Lag: o.lag, Err: o.err, Panicked: o.panicked != nil}
	defer func() {
		s.mu.Lock()
		s.running[slot] = nil
		if h.Result != ResultAck || s.opts.AutoAck { // else Event.Ack has
			s.remember(e, h.Result)
		}
		s.mu.Unlock()
	}()
	// Deferred, as the ErrorHandler and the hooks before may end the goroutine.
	defer func() {
		h.Result, h.Delay, h.SettleErr = s.settle(e, o.err)
		if len(s.hooks.handled) > 0 {
			h.Delivery = e.delivery()
			emit(s.hooks, s.hooks.handled, e.ctx, h)
		}
	}()
	if len(s.hooks.handled) > 0 {
		h.Duration = time.Since(e.received) - o.began
	}
	if o.panicked != nil {
		emit(s.hooks, s.hooks.panicked, e.ctx, Panicked{Delivery: e.delivery(), Err: o.panicked})
	}
	if o.err != nil {
		s.reportFailure(e, o.err, o.panicked)
	}
}

// reportFailure logs a handler's error and passes it to go-micro's
// ErrorHandler.
func (s *subscription) reportFailure(e *event, err error, p *PanicError) {
	if p != nil {
		s.logSome(logger.ErrorLevel, e, "%v\n%s", err, p.Stack)
	} else {
		s.logSome(logger.ErrorLevel, e, "handler failed: %v", err)
	}
	if s.cfg.errorHandler == nil {
		return
	}
	defer func() {
		if r := recover(); r != nil {
			s.logSome(logger.ErrorLevel, e, "the broker's ErrorHandler panicked: %v", r)
		}
	}()
	if err := s.cfg.errorHandler(e); err != nil {
		s.logSome(logger.WarnLevel, e, "the broker's ErrorHandler failed: %v", err)
	}
}

func (s *subscription) newEvent(it item) *event {
	e := &event{sub: s, item: it, ctx: s.base}
	var err error
	if e.meta, err = parseMetadata(it.msg.Reply); err != nil {
		e.meta = metadata{numDelivered: 1}
	}
	return e
}

// delivery tells hooks about the event's message.
func (e *event) delivery() Delivery {
	return Delivery{
		Subscription:     e.sub.identity(),
		Subject:          e.msg.Subject,
		MessageID:        e.msg.Header.Get(nats.MsgIdHdr),
		StreamSequence:   e.meta.streamSequence,
		ConsumerSequence: e.meta.consumerSequence,
		NumDelivered:     e.meta.numDelivered,
		NumPending:       e.meta.pending,
		StoredAt:         time.Unix(0, e.meta.storedAt),
		Size:             len(e.msg.Data),
	}
}
