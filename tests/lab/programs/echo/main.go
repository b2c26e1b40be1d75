// Command echo is the workload of the lab's pods. It answers every request
// with one line that says which pod answered and which address asked, so that
// a test can see where a packet went and whether its source was kept.
//
//	HTTP on :3000   host=<pod> ip=<pod address> from=<ip:port> path=<path>
//	UDP  on :3001   host=<pod> ip=<pod address> from=<ip:port> path=<payload>
//	TCP  on :3002   the same as UDP, one line per line received
//
// ECHO_HOST and POD_IP override what it would find out by itself: pods that
// are plain processes share the host's name.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
)

// identity is what every answer says about the pod itself.
type identity struct{ host, ip string }

// answer is the one line a client gets.
func (id identity) answer(from, path string) string {
	return fmt.Sprintf("host=%s ip=%s from=%s path=%s\n", id.host, id.ip, from, path)
}

func main() {
	id := identity{host: os.Getenv("ECHO_HOST"), ip: os.Getenv("POD_IP")}
	if id.host == "" {
		id.host, _ = os.Hostname()
	}
	if id.ip == "" {
		id.ip = firstAddress()
	}
	failed := make(chan error, 3)
	go func() { failed <- serveUDP(id, ":3001") }()
	go func() { failed <- serveTCP(id, ":3002") }()
	go func() { failed <- http.ListenAndServe(":3000", handler(id)) }()
	log.Fatal(<-failed)
}

func handler(id identity) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, id.answer(r.RemoteAddr, r.URL.Path))
	})
}

func serveUDP(id identity, listen string) error {
	conn, err := net.ListenPacket("udp", listen)
	if err != nil {
		return err
	}
	buffer := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		payload := strings.TrimSpace(string(buffer[:n]))
		if _, err := conn.WriteTo([]byte(id.answer(from.String(), payload)), from); err != nil {
			log.Print(err) // one client that went away is no reason to stop
		}
	}
}

func serveTCP(id identity, listen string) error {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				if _, err := fmt.Fprint(conn, id.answer(conn.RemoteAddr().String(), lines.Text())); err != nil {
					return
				}
			}
		}()
	}
}

// firstAddress is the first global unicast address of any interface.
func firstAddress() string {
	addresses, _ := net.InterfaceAddrs()
	for _, address := range addresses {
		if network, ok := address.(*net.IPNet); ok && network.IP.IsGlobalUnicast() {
			return network.IP.String()
		}
	}
	return ""
}
