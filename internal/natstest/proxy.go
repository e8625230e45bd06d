package natstest

import (
	"bytes"
	"net"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// Proxy is a TCP proxy before a server. It does to the connections through it
// what a bad network or a slow server does. All methods may be called on any
// goroutine.
//
// The methods that look for a text find it where a client has written it with
// one write, which is so for the short requests of tests.
type Proxy struct {
	listener net.Listener
	upstream string
	pumps    sync.WaitGroup
	closed   chan struct{}

	mu       sync.Mutex
	requests gate                // what the clients send
	answers  gate                // what the server sends
	last     string              // the request after which the answers are held back; empty: none
	lost     string              // the request that is lost, once; empty: none
	edit     func([]byte) []byte // changes what the server sends; nil: nothing
	subs     refusedSubs
	conns    []*proxied
	deaf     bool // new connections are accepted and get no answer
	severed  bool // new connections are broken
}

// gate lets data pass, or holds it back.
type gate struct {
	passes chan struct{} // closed while data may pass
	shut   bool
}

func openGate() gate {
	g := gate{passes: make(chan struct{})}
	close(g.passes)
	return g
}

func (g *gate) close() {
	if !g.shut {
		g.passes, g.shut = make(chan struct{}), true
	}
}

func (g *gate) open() {
	if g.shut {
		close(g.passes)
		g.shut = false
	}
}

// StartProxy starts a proxy before a server and closes it with the test.
func StartProxy(t testing.TB, s *server.Server) *Proxy {
	t.Helper()
	return StartProxyTo(t, s.Addr().String())
}

// StartProxyTo is StartProxy for any address, such as that of a port for leaf nodes.
func StartProxyTo(t testing.TB, address string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		listener: l, upstream: address, closed: make(chan struct{}),
		requests: openGate(), answers: openGate(),
	}
	p.pumps.Add(1)
	go p.accept()
	t.Cleanup(p.close)
	return p
}

// Address is where it listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// URL is where clients connect.
func (p *Proxy) URL() string { return "nats://" + p.Address() }

// Stall holds back what the server sends, until Resume. What clients send passes.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers.close()
}

// StallAfter lets the next request with this text pass and holds back its answer
// and everything after it, until Resume.
func (p *Proxy) StallAfter(request string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = request
}

// Resume ends Stall: what was held back passes.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers.open()
}

// TakeNothing leaves what clients send where it is, until TakeAgain: their
// buffers fill up, and then their writes hang.
func (p *Proxy) TakeNothing() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests.close()
}

// TakeAgain ends TakeNothing: what was left passes.
func (p *Proxy) TakeAgain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests.open()
}

// Lose swallows the next request with this text, with all that the client has
// written together with it. A server that looks for a leader does so, too. The
// function that it returns says whether that has happened.
func (p *Proxy) Lose(request string) (happened func() bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = request
	return func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.lost != request
	}
}

// Edit has all that the server sends from now on changed by this function. It is
// called with what one read has returned.
func (p *Proxy) Edit(change func([]byte) []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.edit = change
}

// Cut breaks the connections that there are. New ones are accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.close()
	}
	p.conns = nil
}

// Sever breaks the connections that there are, and new ones at once, until Restore.
func (p *Proxy) Sever() {
	p.mu.Lock()
	p.severed = true
	p.mu.Unlock()
	p.Cut()
}

// Restore ends Sever.
func (p *Proxy) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.severed = false
}

func (p *Proxy) close() {
	_ = p.listener.Close()
	close(p.closed)
	p.Cut()
	p.pumps.Wait()
}

func (p *Proxy) accept() {
	defer p.pumps.Done()
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		upstream, err := net.Dial("tcp", p.upstream)
		if err != nil {
			_ = client.Close()
			continue
		}
		c := &proxied{client: client, upstream: upstream}
		if !p.add(c) {
			return
		}
		p.pumps.Add(2)
		go p.pump(upstream, client, &c.requests, func(data []byte) ([]byte, <-chan struct{}) { return p.request(c, data) })
		go p.pump(client, upstream, &c.answers, p.answer)
	}
}

// add keeps a connection for Cut. Once the proxy is closed it closes the
// connection.
func (p *Proxy) add(c *proxied) (ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
		c.close()
		return false
	default:
		if p.severed {
			c.close()
		}
		if p.deaf {
			c.lose(true, true)
		}
		p.conns = append(p.conns, c)
		return true
	}
}

// pump copies one direction of a connection. Pass says what is written instead
// of what was read, and when.
func (p *Proxy) pump(to, from net.Conn, way *way, pass func([]byte) (data []byte, when <-chan struct{})) {
	defer p.pumps.Done()
	defer func() {
		if !way.lost.Load() { // or the other side would hear of the end
			_ = to.Close()
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !way.lost.Load() {
			data, when := pass(buf[:n])
			select {
			case <-when:
			case <-p.closed:
				return
			}
			if err := way.write(to, data, p.closed); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) request(c *proxied, data []byte) ([]byte, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != "" && bytes.Contains(data, []byte(p.last)) {
		p.last = ""
		p.answers.close()
	}
	if p.lost != "" && bytes.Contains(data, []byte(p.lost)) {
		p.lost = ""
		data = nil
	}
	data = p.subs.filter(c, data)
	return data, p.requests.passes
}

func (p *Proxy) answer(data []byte) ([]byte, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.edit != nil {
		data = p.edit(data)
	}
	return data, p.answers.passes
}
