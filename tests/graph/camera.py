"""A camera in a process of its own, to be killed: camera.py IMAGE_FILE RATE_HZ."""

import sys
import time

import numpy
import rclpy
from PIL import Image as Picture
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

rclpy.init()
node = rclpy.create_node("camera")
publisher = node.create_publisher(Image, "image", qos_profile_sensor_data)
array = numpy.asarray(Picture.open(sys.argv[1]).convert("RGB"))
message = Image(height=array.shape[0], width=array.shape[1], encoding="rgb8", step=array.shape[1] * 3, data=array.tobytes())
while True:
    message.header.stamp = node.get_clock().now().to_msg()
    publisher.publish(message)
    time.sleep(1.0 / float(sys.argv[2]))
