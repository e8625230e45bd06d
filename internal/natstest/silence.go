package natstest

import (
	"net"
	"sync/atomic"
	"time"
)

// proxied is one connection through a Proxy.
type proxied struct {
	client, upstream  net.Conn
	requests, answers way
}

// way is one direction of a connection.
type way struct {
	lost atomic.Bool  // what is sent is read and forgotten, and nobody is told of the end
	rate atomic.Int64 // bytes per second; 0: as fast as it goes
}

func (c *proxied) close() {
	_ = c.client.Close()
	_ = c.upstream.Close()
}

// lose has everything forgotten that is sent from now on.
func (c *proxied) lose(requests, answers bool) {
	if requests {
		c.requests.lost.Store(true)
	}
	if answers {
		c.answers.lost.Store(true)
	}
}

// slice is how often a slow direction passes on a few bytes.
const slice = 50 * time.Millisecond

// write passes data on, as slowly as the way is now.
func (w *way) write(to net.Conn, data []byte, closed <-chan struct{}) error {
	for len(data) > 0 && !w.lost.Load() {
		n := len(data)
		if rate := w.rate.Load(); rate > 0 {
			n = min(n, max(int(rate*int64(slice)/int64(time.Second)), 1))
			select {
			case <-time.After(slice):
			case <-closed:
				return net.ErrClosed
			}
		}
		if _, err := to.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// each calls a function for every connection that there is.
func (p *Proxy) each(do func(*proxied)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		do(c)
	}
}

// Forget has the connections that there are die without a word, as behind a NAT
// that has forgotten them: what clients send (requests) or what the server sends
// (answers) is taken and lost, also the end of the connection. New connections
// are not affected.
func (p *Proxy) Forget(requests, answers bool) {
	p.each(func(c *proxied) { c.lose(requests, answers) })
}

// ForgetAll is Forget in both directions, also for all connections to come until
// Remember: they are accepted, and nothing else happens.
func (p *Proxy) ForgetAll() {
	p.mu.Lock()
	p.deaf = true
	p.mu.Unlock()
	p.Forget(true, true)
}

// Remember ends ForgetAll. Connections from before stay lost.
func (p *Proxy) Remember() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = false
}

// Slow lets the connections that there are pass only so many bytes per second in
// each direction.
func (p *Proxy) Slow(bytesPerSecond int) {
	p.each(func(c *proxied) {
		c.requests.rate.Store(int64(bytesPerSecond))
		c.answers.rate.Store(int64(bytesPerSecond))
	})
}

// HalfClose ends one direction of the connections that there are: the server
// reads the end of what clients send (requests), or clients read the end of what
// the server sends. The other side is not told, and what it sends is lost.
func (p *Proxy) HalfClose(requests bool) {
	p.each(func(c *proxied) {
		c.lose(true, true)
		end := c.client
		if requests {
			end = c.upstream
		}
		if tcp, ok := end.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	})
}

// Say sends a text to the clients as if the server had sent it. It must be
// complete lines of the protocol, at a time when the server says nothing.
func (p *Proxy) Say(text string) {
	p.each(func(c *proxied) { _, _ = c.client.Write([]byte(text)) })
}
