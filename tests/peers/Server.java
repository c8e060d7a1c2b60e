// Java's com.sun.net.httpserver.HttpServer. It answers every method alike, even CONNECT, and continues with
// HTTP/1.1. The argument is the port. It prints a line for each request that it serves.

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;

public class Server {
    public static void main(String[] args) throws IOException {
        var server = HttpServer.create(new InetSocketAddress(Integer.parseInt(args[0])), 0);
        server.createContext("/", exchange -> {
            System.out.println("served " + exchange.getRequestMethod());
            exchange.sendResponseHeaders(200, 2);
            exchange.getResponseBody().write("ok".getBytes());
            exchange.close();
        });
        server.start();
    }
}
