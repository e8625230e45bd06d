package natstest

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Delay is a link to a server on which everything takes a while. It is safe for
// concurrent use.
type Delay struct {
	listener net.Listener
	each     atomic.Int64 // nanoseconds, in each direction
	closed   chan struct{}
	all      sync.WaitGroup
}

// StartDelay starts a link to the server. It does not delay anything yet.
func StartDelay(t testing.TB, s *server.Server) *Delay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &Delay{listener: l, closed: make(chan struct{})}
	d.all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", s.Addr().String())
			if err != nil {
				_ = client.Close()
				continue
			}
			d.all.Go(func() { d.pump(upstream, client) })
			d.all.Go(func() { d.pump(client, upstream) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		close(d.closed)
		d.all.Wait()
	})
	return d
}

// URL is where clients connect.
func (d *Delay) URL() string { return "nats://" + d.listener.Addr().String() }

// Set has all that comes from now on take so long in each direction.
func (d *Delay) Set(each time.Duration) { d.each.Store(int64(each)) }

// chunk is what was read at once, and when it is written.
type chunk struct {
	data []byte
	due  time.Time
}

// pump copies one direction of a connection. It reads on while what it has read waits.
func (d *Delay) pump(to, from net.Conn) {
	chunks := make(chan chunk, 1000)
	d.all.Go(func() {
		d.write(to, chunks)
		_, _ = from.Close(), to.Close()
	})
	defer close(chunks)
	for {
		buf := make([]byte, 64<<10)
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		select {
		case chunks <- chunk{buf[:n], time.Now().Add(time.Duration(d.each.Load()))}:
		case <-d.closed:
			return
		}
	}
}

// write writes each chunk when it is due.
func (d *Delay) write(to net.Conn, chunks <-chan chunk) {
	for {
		select {
		case <-d.closed:
			return
		case c, more := <-chunks:
			if !more {
				return
			}
			select {
			case <-time.After(time.Until(c.due)):
			case <-d.closed:
				return
			}
			if _, err := to.Write(c.data); err != nil {
				return
			}
		}
	}
}
