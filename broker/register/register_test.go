package register_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5"
	microserver "go-micro.dev/v5/server"

	jsbroker "go-micro-jetstream/broker"
	_ "go-micro-jetstream/broker/register"
	"go-micro-jetstream/broker/wrapper"
	"go-micro-jetstream/internal/natstest"
)

// serviceMode, when set, makes the test binary a service: go-micro reads the
// command line and the environment, which have to be a process's own.
const serviceMode = "REGISTER_TEST_SERVICE"

func TestMain(m *testing.M) {
	if mode := os.Getenv(serviceMode); mode != "" {
		if err := runService(mode == "own"); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// Order is exported because go-micro asks for that.
type Order struct{ ID string }

// runService is a service that publishes and handles one order. With own it has
// a broker in its code.
func runService(own bool) error {
	opts := []micro.Option{micro.Name("chosen"), micro.Address("127.0.0.1:0"), micro.HandleSignal(false)}
	if own {
		opts = append(opts, micro.Broker(jsbroker.NewBroker(jsbroker.WithStreamConfig(jetstream.StreamConfig{Name: "OWN"}))))
	}
	service := micro.NewService(opts...)
	service.Init()
	// The broker that go-micro has chosen is known only now.
	b := service.Options().Broker
	service.Init(micro.WrapSubscriber(wrapper.Subscriber(b)), micro.AfterStop(b.Disconnect))
	ctx, cancel := context.WithTimeout(context.Background(), natstest.Patience)
	defer cancel()
	got := make(chan string, 1)
	if err := micro.RegisterSubscriber("orders", service.Server(), func(ctx context.Context, o *Order) error {
		got <- fmt.Sprint(o.ID, ", delivery ", jsbroker.NumDelivered(wrapper.Event(ctx)))
		return nil
	}, microserver.SubscriberQueue("chosen")); err != nil {
		return err
	}
	if err := service.Start(); err != nil {
		return err
	}
	if err := micro.NewEvent("orders", service.Client()).Publish(ctx, &Order{ID: "7"}); err != nil {
		return err
	}
	select {
	case id := <-got:
		fmt.Println("handled", id, "by", b.String(), "at", b.Address())
	case <-ctx.Done():
		return errors.New("nothing came")
	}
	return service.Stop()
}

func TestChosenWhenTheServiceStarts(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]struct {
		env, args []string
		mode      string
		stream    string
	}{
		"environment":             {[]string{"MICRO_BROKER=jetstream", "MICRO_BROKER_ADDRESS=URL"}, nil, "default", "ORDERS"},
		"flags":                   {nil, []string{"--broker=jetstream", "--broker_address=URL"}, "default", "ORDERS"},
		"a broker in the code":    {[]string{"MICRO_BROKER=jetstream", "MICRO_BROKER_ADDRESS=URL"}, nil, "own", "OWN"},
		"only the address is set": {[]string{"MICRO_BROKER_ADDRESS=URL"}, nil, "own", "OWN"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Start(t)
			fill := func(list []string) (filled []string) {
				for _, v := range list {
					filled = append(filled, strings.ReplaceAll(v, "URL", s.ClientURL()))
				}
				return filled
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0], fill(how.args)...)
			// The default registry multicasts; the test must not need a network.
			cmd.Env = append(os.Environ(), append(fill(how.env), "MICRO_REGISTRY=memory", serviceMode+"="+how.mode)...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if want := "handled 7, delivery 1 by jetstream at " + s.ClientURL() + "\n"; err != nil || !strings.Contains(string(out), want) {
				t.Fatalf("%v: printed %q, want %q\n%s", err, out, want, stderr.String())
			}
			made, err := s.Jsz(&server.JSzOptions{Streams: true})
			if err != nil {
				t.Fatal(err)
			}
			if d := made.AccountDetails; len(d) != 1 || len(d[0].Streams) != 1 || d[0].Streams[0].Name != how.stream {
				t.Errorf("streams %+v, want %s", d, how.stream)
			}
		})
	}
}
