// Package register lets users select this broker when they start a go-micro
// service, as they select any of go-micro's own. It is imported for its side
// effect:
//
//	import _ "go-micro-jetstream/broker/register"
//
//	MICRO_BROKER=jetstream MICRO_BROKER_ADDRESS=nats://nats:4222 ./service
//	./service --broker=jetstream --broker_address=nats://nats:4222
//
// A broker selected this way has its default options, except for the address. A
// service that passes a jetstream broker of its own to micro.Broker keeps that
// broker; only the address is set on it.
//
// This is a separate package because it imports go-micro's cmd package, which
// pulls in all of go-micro's plugins.
package register

import (
	"go-micro.dev/v5/cmd"

	jsbroker "go-micro-jetstream/broker"
)

func init() { cmd.DefaultBrokers["jetstream"] = jsbroker.NewBroker }
