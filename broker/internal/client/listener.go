package client

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/fault"
)

// Listener is a subscription that outlives the client that it was made on: where another
// client takes the place of one that has closed, it is subscribed there, too. It is safe
// for concurrent use.
type Listener struct {
	conn      *Conn
	subscribe func(*nats.Conn) (*nats.Subscription, error)
	current   atomic.Pointer[listening]
	closed    atomic.Bool
}

// listening is the subscription on one client.
type listening struct {
	client *client
	done   chan struct{} // closed when the fields below are set
	sub    *nats.Subscription
	err    error
}

// Listen subscribes with this function, which is called again with the connection of each
// client to come. It is called after Dial. It waits a moment for the server, and returns
// fault.ErrSubscriptionLimit if that permits no more subscriptions.
func (c *Conn) Listen(subscribe func(*nats.Conn) (*nats.Subscription, error)) (*Listener, error) {
	l := &Listener{conn: c, subscribe: subscribe}
	on := c.listeners.add(l)
	if on == nil {
		return nil, nats.ErrInvalidConnection
	}
	before := c.SubscriptionsRefused()
	err := l.on(on)
	if err == nil {
		if err := c.confirm(on.nc, before); err != nil {
			_ = l.Unsubscribe()
			return nil, err
		}
	}
	if errors.Is(err, nats.ErrConnectionClosed) && !c.Over() {
		return l, nil // the next client gets it
	}
	if err != nil {
		c.listeners.remove(l)
		return nil, err
	}
	return l, nil
}

// on subscribes on a client, unless that is done, or there is a later client.
func (l *Listener) on(c *client) error {
	for {
		cur := l.current.Load()
		if cur != nil && cur.client.number >= c.number {
			<-cur.done
			return cur.err
		}
		next := &listening{client: c, done: make(chan struct{})}
		if !l.current.CompareAndSwap(cur, next) {
			continue
		}
		next.sub, next.err = l.subscribe(c.nc)
		close(next.done)
		if next.err == nil && l.closed.Load() { // Close may have missed this one
			_ = next.sub.Unsubscribe()
		}
		return next.err
	}
}

// Again subscribes once more, in place of a subscription that the server may have
// refused. Nothing may be on its way to that.
func (l *Listener) Again() error {
	return l.again(func(sub *nats.Subscription) { _ = sub.Unsubscribe() })
}

// AgainAfter subscribes once more. Before that it takes in what is on the way, and has
// a function called while nobody listens.
func (l *Listener) AgainAfter(unheard func()) error {
	return l.again(func(sub *nats.Subscription) {
		_ = sub.Drain()
		_ = l.conn.NATS().FlushTimeout(CloseTimeout)
		unheard()
	})
}

// again ends the subscription with this function, and makes another one.
func (l *Listener) again(end func(*nats.Subscription)) error {
	cur := l.current.Load()
	<-cur.done
	if l.closed.Load() || cur.err != nil {
		return cur.err
	}
	end(cur.sub)
	before := l.conn.SubscriptionsRefused()
	next := &listening{client: cur.client, done: make(chan struct{})}
	if !l.current.CompareAndSwap(cur, next) {
		return nil // there is another client
	}
	next.sub, next.err = l.subscribe(cur.client.nc)
	close(next.done)
	if next.err == nil && l.closed.Load() {
		_ = next.sub.Unsubscribe()
	}
	if next.err != nil {
		return next.err
	}
	return l.conn.confirm(cur.client.nc, before)
}

// Drain ends the subscription when what is on the way has arrived; see
// [nats.Subscription.Drain].
func (l *Listener) Drain() error { return l.close((*nats.Subscription).Drain) }

// Unsubscribe ends the subscription at once.
func (l *Listener) Unsubscribe() error { return l.close((*nats.Subscription).Unsubscribe) }

func (l *Listener) close(end func(*nats.Subscription) error) error {
	l.closed.Store(true)
	l.conn.listeners.remove(l)
	cur := l.current.Load()
	<-cur.done
	if cur.err != nil {
		return cur.err
	}
	err := end(cur.sub)
	if errors.Is(l.conn.Deaf(), fault.ErrSubscriptionLimit) {
		l.conn.reconnectNow() // there may be room now
	}
	return err
}

// listeners are those of a connection, and the client that they are to be on. The zero
// value is ready.
type listeners struct {
	mu     sync.Mutex
	all    map[*Listener]struct{}
	client *client
}

// add returns the client to subscribe on, nil if there is none.
func (ls *listeners) add(l *Listener) *client {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.client == nil {
		return nil
	}
	if ls.all == nil {
		ls.all = make(map[*Listener]struct{})
	}
	ls.all[l] = struct{}{}
	return ls.client
}

func (ls *listeners) count() int {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return len(ls.all)
}

func (ls *listeners) remove(l *Listener) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	delete(ls.all, l)
}

// moveTo returns those to subscribe on a new client. Those that are added later get that
// client from add.
func (ls *listeners) moveTo(c *client) (all []*Listener) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.client = c
	for l := range ls.all {
		all = append(all, l)
	}
	return all
}

// Listeners returns how many subscriptions the connection has.
func (c *Conn) Listeners() int { return c.listeners.count() }
