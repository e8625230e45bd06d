package natsopts

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"go-micro-jetstream/broker/internal/goroutine"
	"go-micro-jetstream/broker/internal/logging"
	"go-micro-jetstream/internal/natstest"
)

// lateDialer returns a connection when it may.
type lateDialer struct {
	conn net.Conn
	may  chan struct{}
}

func (d lateDialer) Dial(string, string) (net.Conn, error) {
	<-d.may
	return d.conn, nil
}

// Nobody would close what a dialer returns after its time.
func TestDialerThatReturnsTooLate(t *testing.T) {
	ours, theirs := net.Pipe()
	user := lateDialer{conn: ours, may: make(chan struct{})}
	d := &guardedDialer{g: &guard{log: Log{Lines: new(logging.Limiter), Line: func(slog.Level, string, ...any) {}}, bound: time.Millisecond}, user: user}
	for range mostHanging + 1 { // the last one is not called
		if _, err := d.Dial("tcp", "x"); !errors.Is(err, goroutine.ErrHangs) {
			t.Fatalf("got %v", err)
		}
	}
	if n := d.g.hanging.Load(); n != mostHanging {
		t.Errorf("%d calls hang", n)
	}
	close(user.may)
	if _, err := theirs.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is not closed: %v", err)
	}
	natstest.Eventually(t, "no call hangs any more", func() bool { return d.g.hanging.Load() == 0 })
}
