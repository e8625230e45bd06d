// Package natstest is the harness for the tests of this module: NATS servers in
// the process, a network between them and a client that can fail, plain clients,
// a logger that keeps its lines, and waits that end. Only tests import it.
//
// Functions that take a testing.TB end the test when something goes wrong, and
// clean up with it. Unless they say otherwise, they must be called on the
// goroutine of that test.
package natstest
