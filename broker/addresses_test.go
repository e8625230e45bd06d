package broker_test

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

const specials = ",/#?@:;%&=+$!*'()[]{}<>|\\^`\"~ "

// noDial fails the test if the broker dials anything but the host. It never connects.
type noDial struct {
	t    *testing.T
	addr string
}

func (d noDial) Dial(_, address string) (net.Conn, error) {
	if address != "host.invalid:4222" {
		d.t.Errorf("for %q it dials, and has looked up, %s", d.addr, address)
	}
	return nil, net.ErrClosed
}

// A password or a token that is not percent-encoded is never shown, and no part of it is
// taken for a host.
func TestSecretsInAddressesAreNeverShown(t *testing.T) {
	t.Parallel()
	n, refused := 0, 0
	try := func(addr string, addrs ...string) {
		n++
		b := jsbroker.NewBroker(broker.Addrs(addrs...), quiet(), jsbroker.WithNATSOptions(
			nats.SkipHostLookup(), nats.SetCustomDialer(noDial{t, addr})))
		err := b.Connect()
		if err == nil {
			t.Fatalf("%q: connected", addr)
		}
		if strings.Contains(err.Error(), "percent-encode") {
			refused++
		}
		for _, shown := range []string{err.Error(), fmt.Sprint(b.Init()), b.Address()} {
			if strings.Contains(shown, "s3cr") || strings.Contains(shown, "h1dd") || strings.Contains(shown, "4711") {
				t.Errorf("%q: %s", addr, shown)
			}
		}
	}
	for _, first := range specials {
		for _, second := range "x,/#?@:" {
			for _, form := range []string{"nats://user:s3cr%sh1dd@host.invalid", "nats://s3cr%sh1dd@host.invalid", "user:s3cr%sh1dd@host.invalid", "s3cr%sh1dd@host.invalid", "tls://user:4711%s4711@host.invalid"} {
				addr := fmt.Sprintf(form, string(first)+"x"+string(second))
				try(addr, addr)
				try(addr, strings.Split(addr, ",")...) // as go-micro does with its flag
				try(addr, "nats://u:p@host.invalid,"+addr)
			}
		}
	}
	t.Logf("%d of %d refused", refused, n)
}

// The error says what to do, and where.
func TestErrorForASpecialCharacterInAnAddress(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"nats://u:p,w@host", "nats://u:12,w@host", "nats://u:12/w@host", "nats://tok#en@host", "nats://tok?en@host", "nats://u:p%zz@host"} {
		_, err := connectTo(t, broker.Addrs("nats://first", addr))
		wantError(t, err, jsbroker.ErrInvalidConfig, "address", "percent-encode")
		if strings.Contains(err.Error(), "address 1 ") {
			t.Errorf("%s: the wrong address: %v", addr, err)
		}
	}
}

// Encoded, every character works, and in a list, too.
func TestEncodedCredentialsInAddresses(t *testing.T) {
	t.Parallel()
	password := "pw" + specials
	s := startServer(t, func(o *server.Options) { o.Users = []*server.User{{Username: "user", Password: password}} })
	host := strings.TrimPrefix(s.ClientURL(), "nats://")
	credentials := url.UserPassword("user", password).String() + "@"
	credentials = strings.ReplaceAll(credentials, ",", "%2C")
	for _, addr := range []string{
		"nats://" + credentials + host, credentials + host,
		credentials + host + "," + credentials + host, "nats://" + credentials + host + "/",
		"nats://" + credentials + "127.0.0.1:1, nats://" + credentials + host,
	} {
		_, err := connectTo(t, broker.Addrs(addr))
		noErr(t, err)
	}
}

func TestConnectWithoutServerSaysWhatToStart(t *testing.T) {
	t.Parallel()
	_, err := connectTo(t, broker.Addrs("127.0.0.1:1"))
	if err == nil || !strings.Contains(err.Error(), "nats-server -js") {
		t.Error(err)
	}
}

// A server that accepts the connection and says nothing more does not hold Connect up.
func TestConnectToAServerThatSaysNothing(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts, the kernel does
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	begin := time.Now()
	if _, err := connectTo(t, broker.Addrs(l.Addr().String())); err == nil {
		t.Error("connected")
	}
	if took := time.Since(begin); took > patience {
		t.Errorf("it took %v", took)
	}
}
