package broker_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// freezes stops the process of a server: the kernel still accepts connections, and takes
// what is written. It waits until the client has noticed, and lets the server go on. What
// was written meanwhile arrives then. It returns how long it took to notice.
func freezes(t *testing.T, opts ...broker.Option) time.Duration {
	t.Helper()
	p := startServerProcess(t, t.TempDir())
	t.Cleanup(p.kill) // or it could not remove its directory
	signal := func(s syscall.Signal) {
		t.Helper()
		if err := p.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	states, onState := hookChan[jsbroker.ConnectionChanged]()
	b, err := connectTo(t, append([]broker.Option{broker.Addrs(p.ClientURL()), jsbroker.WithHooks(jsbroker.Hooks{ConnectionChanged: onState})}, opts...)...)
	noErr(t, err)
	o := newOutcomes(t)
	subscribe(t, b, "orders", o.handler, broker.Queue("q"))
	o.publish(b, 20)
	signal(syscall.SIGSTOP)
	began := time.Now()
	stop := o.keepPublishing(b)
	awaitState(t, states, jsbroker.StateDisconnected)
	took := time.Since(began)
	signal(syscall.SIGCONT)
	awaitState(t, states, jsbroker.StateReconnected)
	stop()
	o.publish(b, 20)
	o.settle(t, p)
	t.Logf("noticed after %v", took)
	return took
}

func TestFrozenServerIsNoticed(t *testing.T) {
	t.Parallel()
	freezes(t, quickPings(), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{AckWait: 2 * time.Second}))
}

func TestFrozenServerIsNoticedWithinHalfAMinute(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	if took := freezes(t); took > 45*time.Second {
		t.Errorf("noticed after %v", took)
	}
}
