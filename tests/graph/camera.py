"""A camera in a process of its own, to be killed: camera.py IMAGE_FILE RATE_HZ."""

import itertools
import sys
import time

import numpy
import rclpy
from PIL import Image as Picture
from peer import image_message, noisy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

rclpy.init()
node = rclpy.create_node("camera")
publisher = node.create_publisher(Image, "image", qos_profile_sensor_data)
array = numpy.asarray(Picture.open(sys.argv[1]).convert("RGB"))
for shot in itertools.count():
    publisher.publish(image_message(noisy(array, shot), "rgb8", node.get_clock().now().to_msg()))
    time.sleep(1.0 / float(sys.argv[2]))
