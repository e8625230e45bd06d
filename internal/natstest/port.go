package natstest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Ports of servers come from below the range from which Linux (32768 and up) and others
// take a port for a connection or a listener that asks for any.
const (
	firstPort = 10000
	ports     = 32768 - firstPort
)

// Port returns a port of the loopback interface that stays this test's until it ends,
// also while nobody listens there. Otherwise a server that is down for a moment would
// lose its port to a connection or a server of another test, now and then.
//
// It is kept by a UDP socket, which is no obstacle to a listener of TCP. All tests that
// run on this machine see that, those of other packages, too.
func Port(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := firstPort + rand.IntN(ports)
		address := fmt.Sprintf("127.0.0.1:%d", port)
		kept, err := net.ListenPacket("udp", address)
		if err != nil {
			continue // another test's
		}
		l, err := net.Listen("tcp", address)
		if err != nil { // another program's
			_ = kept.Close()
			continue
		}
		_ = l.Close()
		t.Cleanup(func() { _ = kept.Close() })
		return port
	}
	t.Fatal("no free port was found")
	return 0
}
